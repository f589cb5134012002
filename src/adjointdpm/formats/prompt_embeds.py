"""Conditioning that was optimised, as a file: what the sampler takes, for ``pipe(...)`` too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..storage import read_tensors, write_tensors
from .files import (
    NUMBER,
    TEXT,
    Fields,
    check_fields,
    file_to_read,
    file_to_write,
    metadata_of,
)
from .model_card import Artefact, write_model_card
from .provenance import Provenance

KIND = "prompt_embeds"
FILE = "prompt_embeds.safetensors"
NEGATIVE = "negative_"
PIPELINE_NAMES = {
    "encoder_hidden_states": "prompt_embeds",
    "encoder_attention_mask": "prompt_attention_mask",
    "pooled_projections": "pooled_prompt_embeds",
    "added_cond_kwargs.text_embeds": "pooled_prompt_embeds",
}
"""What pipelines call the arguments of their networks."""
SIZES = "added_cond_kwargs.time_ids"
"""What SDXL's UNet is told of sizes."""
SIZE_ARGUMENTS = {
    6: {"original_size": 2, "crops_coords_top_left": 2, "target_size": 2},
    5: {"original_size": 2, "crops_coords_top_left": 2, "aesthetic_score": 1},
}
"""What arguments they are made of, and how many numbers each has: of SDXL and of its refiner."""
DESCRIBED: Fields = {
    "prompt": TEXT,
    "negative_prompt": TEXT,
    "guidance_scale": NUMBER,
    "num_inference_steps": int,
}


@dataclass(frozen=True, eq=False)
class PromptEmbeds:
    """Conditioning, and what it was made for.

    Args:
        cond: any nest of dicts, lists and tuples of tensors (and numbers, text or None) as
            `encode_prompt` returns it; used as ``sampler(noise, **embeds.cond)``.
        prompt: what it was optimised from.
        negative_prompt: what guidance led away from.
        guidance_scale: the one it was made under.
        num_inference_steps: likewise.
        provenance: the model that it conditions.
    """

    cond: dict[str, Any]
    prompt: str | list[str] | None = None
    negative_prompt: str | list[str] | None = None
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    provenance: Provenance = field(default_factory=Provenance)

    def pipeline_arguments(self) -> dict[str, Any]:
        """Return the conditioning by the names of a pipeline's arguments: ``pipe(**arguments)``.

        ``prompt_embeds``, ``negative_prompt_embeds``, the pooled ones and the masks, whichever
        there are; and the sizes that SDXL's network is told of, as ``original_size`` and so on.

        Raises:
            ValueError: there are tensors that pipelines have no common argument for (pictures for
                IP-Adapter or ControlNet, classes, sizes that differ between samples);
                ``sampler(noise, **embeds.cond)`` takes all.
        """
        tensors = _flatten(self.cond)[0]
        names, plain = _pipeline_names(tensors), _plain_arguments(tensors)
        if names is None or plain is None:
            raise ValueError(
                f"some of {', '.join(tensors)} cannot be passed to a pipeline by a common name; "
                "use the sampler of from_pipeline: sampler(noise, **embeds.cond)"
            )
        return {**{theirs: tensors[ours] for ours, theirs in names.items()}, **plain}


def save_prompt_embeds(
    folder_or_file: str | Path,
    embeds: PromptEmbeds,
    *,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Save conditioning; its tensors by dotted names, the rest as metadata.

    Args:
        folder_or_file: a folder, which also gets a model card, or a path to a .safetensors file.
        embeds: the conditioning.
        settings: how it was made, for the model card.

    Returns:
        The file.

    Raises:
        ValueError: something in the conditioning is neither a tensor nor plain data.
    """
    tensors, structure = _flatten(embeds.cond)
    described = {name: getattr(embeds, name) for name in DESCRIBED}
    fields = {"structure": structure, **described, **embeds.provenance.to_fields()}
    path = file_to_write(folder_or_file, FILE)
    write_tensors(path, KIND, tensors, fields)
    if path != Path(folder_or_file):
        settings = {**{k: v for k, v in described.items() if v is not None}, **(settings or {})}
        write_model_card(path.parent, _artefact(embeds), embeds.provenance, settings)
    return path


def load_prompt_embeds(
    folder_or_file: str | Path, device: str | torch.device = "cpu"
) -> PromptEmbeds:
    """Load conditioning that `save_prompt_embeds` saved.

    Args:
        folder_or_file: the file, or a folder with a prompt_embeds.safetensors.
        device: where to put the tensors.

    Raises:
        ValueError: the file is pickled, or is another one.
        FileNotFoundError: there is none.
    """
    path = file_to_read(folder_or_file, FILE)
    tensors, fields = read_tensors(path, KIND, device)
    check_fields(path, fields, {**DESCRIBED, "structure": dict})
    described = {name: fields[name] for name in DESCRIBED}
    with metadata_of(path):
        cond = _unflatten(fields["structure"], tensors)
    if not isinstance(cond, dict):
        raise ValueError(f"the metadata of {path} do not describe conditioning by name")
    return PromptEmbeds(cond, **described, provenance=Provenance.from_fields(fields, path))


def _flatten(nest: Any) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors of a nest by dotted names, and the nest as JSON that refers to them."""
    tensors: dict[str, Tensor] = {}

    def visit(value: Any, path: str) -> Any:
        def inside(name: Any, child: Any) -> Any:
            return visit(child, f"{path}.{name}" if path else str(name))

        if isinstance(value, Tensor):
            tensors[path] = value
            return {"tensor": path}
        if isinstance(value, Mapping):
            if any(not isinstance(name, str) or "." in name for name in value):
                raise ValueError(f"names in the conditioning must be text without dots: {path}")
            return {"dict": {name: inside(name, child) for name, child in value.items()}}
        if isinstance(value, list | tuple):
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [inside(i, child) for i, child in enumerate(value)]}
        if value is None or isinstance(value, bool | int | float | str):
            return {"value": value}
        raise ValueError(
            f"the conditioning {path} is a {type(value).__name__}, which is neither a tensor nor "
            "a number, text or None, nor a dict, list or tuple of them"
        )

    return tensors, visit(nest, "")


def _unflatten(structure: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    [(kind, content)] = structure.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {name: _unflatten(child, tensors) for name, child in content.items()}
    if kind in ("list", "tuple"):
        children = [_unflatten(child, tensors) for child in content]
        return children if kind == "list" else tuple(children)
    if kind == "value" and not isinstance(content, list | dict):
        return content
    raise ValueError(f"{kind} is no kind of conditioning")


def _pipeline_names(tensors: Mapping[str, Tensor]) -> dict[str, str] | None:
    """Return what pipelines call these tensors; None if they do not take all of them."""
    names = {}
    for path in tensors:
        name = path.removeprefix(NEGATIVE)
        if name in PIPELINE_NAMES:
            names[path] = path.removesuffix(name) + PIPELINE_NAMES[name]
        elif name != SIZES:
            return None
    return names


def _plain_arguments(tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return the arguments that are no tensors; None if sizes are unknown or differ by sample."""
    arguments: dict[str, Any] = {}
    # Some pipelines have a negative prompt by default, and take no embeddings beside it.
    if any(name.startswith(NEGATIVE) for name in tensors):
        arguments["negative_prompt"] = None
    for prefix in ("", NEGATIVE):
        if (sizes := tensors.get(prefix + SIZES)) is None:
            continue
        count_of = SIZE_ARGUMENTS.get(sizes.shape[-1]) if sizes.ndim == 2 and len(sizes) else None
        if count_of is None or not torch.equal(sizes, sizes[:1].expand_as(sizes)):
            return None
        numbers = iter(sizes[0].tolist())
        for name, count in count_of.items():
            values = tuple(next(numbers) for _ in range(count))
            arguments[prefix + name] = values if count == 2 else values[0]
    return arguments


def _artefact(embeds: PromptEmbeds) -> Artefact:
    sampling = "".join(
        f", {name}={value!r}"
        for name in ("guidance_scale", "num_inference_steps")
        if (value := getattr(embeds, name)) is not None
    )
    tensors = _flatten(embeds.cond)[0]
    names, plain = _pipeline_names(tensors), _plain_arguments(tensors)
    if names is not None and plain is not None:
        arguments = "".join(f"    {name}=tensors[{path!r}],\n" for path, name in names.items())
        arguments += "".join(f"    {name}={value!r},\n" for name, value in plain.items())
        snippet = f"""
from safetensors.torch import load_file

tensors = load_file({FILE!r})
image = pipe(
{arguments}    {sampling.removeprefix(", ")}
).images[0]
"""
    else:
        snippet = f"""
import adjointdpm as adp
import torch

embeds = adp.formats.load_prompt_embeds(".")
sampler, decode = adp.from_pipeline(pipe{sampling})
image = decode(sampler(torch.randn(adp.latent_shape(pipe)), **embeds.cond))
"""
    about = f" of the prompt {embeds.prompt!r}" if embeds.prompt else ""
    return Artefact(
        title="An optimised prompt embedding",
        description=f"The conditioning{about}, optimised through the sampling process.",
        snippet=snippet,
        tags=("prompt-embeds", "text-to-image"),
    )
