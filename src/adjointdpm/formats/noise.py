"""Noise that was chosen or optimised, with the sampler that turns it into its picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..storage import METADATA_KEY, read_tensors, write_tensors
from .files import NUMBER, TEXT, Fields, check_fields, file_to_read, file_to_write
from .model_card import Artefact, write_model_card
from .provenance import Provenance

KIND = "noise"
FILE = "noise.safetensors"
DESCRIBED: Fields = {
    "num_inference_steps": int,
    "guidance_scale": NUMBER,
    "prompt": TEXT,
    "negative_prompt": TEXT,
    "plan": str,
    "seed": int,
    "scheduler_config": dict,
}
FORM: Fields = {"shape": list, "dtype": str}


@dataclass(frozen=True, eq=False)
class Noise:
    """A standard-normal latent, and what is needed to draw its picture again.

    Args:
        noise: (batch, ...) the latent, as the sampler and ``pipe(latents=noise)`` take it.
        draws: (num_draws, batch, ...) the noises that a stochastic sampler draws on the way.
        num_inference_steps: number of sampling steps.
        guidance_scale: weight of classifier-free guidance.
        prompt: what the picture is of.
        negative_prompt: what guidance led away from.
        plan: name of the plan, where it is not the scheduler's.
        seed: seed of all that was drawn at random.
        scheduler_config: the scheduler's config with its class; see `scheduler_config`.
        provenance: the model that draws the picture.
    """

    noise: Tensor
    draws: Tensor | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    prompt: str | list[str] | None = None
    negative_prompt: str | list[str] | None = None
    plan: str | None = None
    seed: int | None = None
    scheduler_config: Mapping[str, Any] | None = None
    provenance: Provenance = field(default_factory=Provenance)

    def scheduler(self) -> Any:
        """Return the scheduler, anew.

        Raises:
            ValueError: none was saved, or one that diffusers does not have.
        """
        config = dict(self.scheduler_config or {})
        return _scheduler_class(config).from_config(config)


def _scheduler_class(config: Mapping[str, Any]) -> Any:
    """Return the class that a scheduler's config names.

    Raises:
        ValueError: diffusers has none of that name.
    """
    import diffusers

    name = str(config.get("_class_name"))
    scheduler: Any = getattr(diffusers, name, None)
    if not (isinstance(scheduler, type) and issubclass(scheduler, diffusers.SchedulerMixin)):
        raise ValueError(f"diffusers {diffusers.__version__} has no scheduler {name!r}")
    return scheduler


def scheduler_config(scheduler: Any) -> dict[str, Any]:
    """Return a scheduler's config with the name of its class, as `Noise` keeps it."""
    return json.loads(scheduler.to_json_string())


def save_noise(
    folder_or_file: str | Path, noise: Noise, *, settings: Mapping[str, Any] | None = None
) -> Path:
    """Save noise, with what is needed to draw its picture again.

    Args:
        folder_or_file: a folder, which also gets a model card, or a path to a .safetensors file.
        noise: the noise.
        settings: how it was found, for the model card.

    Returns:
        The file.

    Raises:
        ValueError: the noise is no floating-point batch, the draws do not fit it, or diffusers has
            no such scheduler.
    """
    _check(noise.noise, noise.draws, "the noise")
    if noise.scheduler_config is not None:
        _scheduler_class(noise.scheduler_config)  # its name will stand in code that people copy
    tensors = {"noise": noise.noise}
    if noise.draws is not None:
        tensors["draws"] = noise.draws
    described = {name: getattr(noise, name) for name in DESCRIBED}
    form = {"shape": list(noise.noise.shape), "dtype": str(noise.noise.dtype)}
    path = file_to_write(folder_or_file, FILE)
    write_tensors(path, KIND, tensors, {**described, **form, **noise.provenance.to_fields()})
    if path != Path(folder_or_file):
        config = described.pop("scheduler_config")
        described["scheduler"] = config and config["_class_name"]
        present = {k: v for k, v in {**described, **form}.items() if v is not None}
        settings = {**present, **(settings or {})}
        write_model_card(path.parent, _artefact(noise), noise.provenance, settings)
    return path


def load_noise(folder_or_file: str | Path, device: str | torch.device = "cpu") -> Noise:
    """Load noise that `save_noise` saved.

    Args:
        folder_or_file: the file, or a folder with a noise.safetensors.
        device: where to put the tensors.

    Raises:
        ValueError: the file is pickled, is another one, or does not hold what it says.
        FileNotFoundError: there is none.
    """
    path = file_to_read(folder_or_file, FILE)
    tensors, fields = read_tensors(path, KIND, device)
    check_fields(path, fields, {**DESCRIBED, **FORM})
    if "noise" not in tensors:
        raise ValueError(f"{path} holds no tensor that is called noise")
    noise, draws = tensors["noise"], tensors.get("draws")
    _check(noise, draws, str(path))
    held, said = (list(noise.shape), str(noise.dtype)), (fields["shape"], fields["dtype"])
    if held != said:
        raise ValueError(f"{path} says that it holds noise of {said}, but holds {held}")
    described = {name: fields[name] for name in DESCRIBED}
    return Noise(noise, draws, **described, provenance=Provenance.from_fields(fields, path))


def _check(noise: Tensor, draws: Tensor | None, where: str) -> None:
    if not noise.is_floating_point() or noise.ndim < 2 or noise.numel() == 0:
        raise ValueError(
            f"{where} must be a floating-point latent of the shape (batch, ...), not {noise.dtype} "
            f"of {tuple(noise.shape)}"
        )
    if draws is not None and draws.shape[1:] != noise.shape:
        raise ValueError(
            f"the draws of {where} must have the shape (num_draws, *{tuple(noise.shape)}), not "
            f"{tuple(draws.shape)}"
        )


def _artefact(noise: Noise) -> Artefact:
    arguments = "".join(
        f", {name}={value!r}"
        for name in ("num_inference_steps", "guidance_scale")
        if (value := getattr(noise, name)) is not None
    )
    scheduler = noise.scheduler_config and _scheduler_class(noise.scheduler_config).__name__
    if scheduler and noise.draws is None and noise.plan is None:
        negative = f", negative_prompt={noise.negative_prompt!r}" if noise.negative_prompt else ""
        snippet = f"""
import json
from diffusers import {scheduler}
from safetensors import safe_open

with safe_open({FILE!r}, "pt") as file:
    noise = file.get_tensor("noise")
    config = json.loads(file.metadata()[{METADATA_KEY!r}])["scheduler_config"]
pipe.scheduler = {scheduler}.from_config(config)
image = pipe({noise.prompt!r}{negative}, latents=noise{arguments}).images[0]
"""
    else:
        arguments += ", scheduler=saved.scheduler()" if scheduler else ""
        plan = f"  # plan: {noise.plan!r}" if noise.plan else ""
        snippet = f"""
import adjointdpm as adp

saved = adp.formats.load_noise(".")
sampler, decode = adp.from_pipeline(pipe{arguments}){plan}
cond = adp.encode_prompt(pipe, {noise.prompt!r}, {noise.negative_prompt!r})
image = decode(sampler(saved.noise, draws=saved.draws, **cond))
"""
    return Artefact(
        title="Noise for a diffusion model",
        description="The initial latent that a diffusion model turns into one certain picture.",
        snippet=snippet,
        tags=("noise", "text-to-image"),
    )
