"""Loading a pipeline: safetensors only, no code but diffusers', the hub's token from outside."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Any

import torch

from ..formats import refuse_missing_weights, refuse_pickle, refuse_pickled_weights
from .trained import freeze

REFUSED = {
    "token": (
        "a token in code ends up in notebooks and logs. Put it into the environment variable "
        "HF_TOKEN, or run `hf auth login` once"
    ),
    "use_auth_token": "see token: put it into the environment variable HF_TOKEN",
    "trust_remote_code": (
        "code that comes with a model would run with all your rights. Build that pipeline yourself "
        "and pass it to from_pipeline"
    ),
    "custom_pipeline": (
        "it would run code from a repository. Build that pipeline yourself and pass it to "
        "from_pipeline"
    ),
}
"""Arguments of ``from_pretrained`` that are not taken, and why."""


def load_pipeline(
    path_or_id: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    dtype: torch.dtype | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    **arguments: Any,
) -> Any:
    """Load a diffusers pipeline from a folder or from the hub.

    Weights are read from safetensors files only, and no code runs but that of diffusers and
    transformers. A token for the hub is taken from the environment (``HF_TOKEN``). With
    ``HF_HUB_OFFLINE=1`` in the environment only folders and the local cache are looked at.

    Args:
        path_or_id: a folder, or an id such as ``"stable-diffusion-v1-5/stable-diffusion-v1-5"``.
        revision: a commit, branch or tag on the hub. A commit makes a run repeatable.
        variant: of the weight files, such as ``"fp16"``.
        dtype: of the weights; ``torch_dtype``, its older name, is known too.
        cache_dir: where the hub's files are kept.
        local_files_only: do not download anything.
        **arguments: further arguments of ``DiffusionPipeline.from_pretrained``, such as
            ``safety_checker=None``, ``scheduler=...`` or ``device_map=...``.

    Returns:
        The pipeline, in evaluation mode and frozen; `trainable` and `add_lora` say what is trained.

    Raises:
        ValueError: an argument that is refused; weights that are pickled, or missing; or a single
                file.
        FileNotFoundError: there is no such model, or none that can be had offline.
    """
    for name, reason in REFUSED.items():
        value = arguments.pop(name, None)
        if value is not None and not (name == "trust_remote_code" and value is False):
            raise ValueError(f"load_pipeline takes no {name}: {reason}")
    if not arguments.pop("use_safetensors", True):
        raise ValueError(
            "use_safetensors=False would read weights with pickle, which runs any code that is in "
            "the file; leave it out"
        )
    path = Path(path_or_id)
    if path.is_dir():
        _check_folder(path)
    elif path.is_file():
        refuse_pickle(path)
        raise ValueError(
            f"{path} is a single file; load it with its pipeline's class, such as "
            f"StableDiffusionPipeline.from_single_file({str(path)!r}), and save it as a folder "
            "with pipe.save_pretrained(folder)"
        )
    if dtype is not None:
        arguments["dtype"] = dtype
    pipe = _from_pretrained(
        path_or_id,
        revision=revision,
        variant=variant,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        **arguments,
    )
    _check_whole(pipe, variant, set(arguments))
    return freeze(pipe)


def _from_pretrained(path_or_id: str | Path, **arguments: Any) -> Any:
    from diffusers import DiffusionPipeline
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return DiffusionPipeline.from_pretrained(path_or_id, use_safetensors=True, **arguments)
    except OSError as error:
        not_cached = (LocalEntryNotFoundError, OfflineModeIsEnabled)
        if not isinstance(error, not_cached) and not isinstance(error.__cause__, not_cached):
            raise
        raise FileNotFoundError(
            f"{path_or_id} is neither a folder nor wholly in the local cache, and nothing may be "
            "downloaded. Check the path; or go online, without HF_HUB_OFFLINE and "
            "local_files_only, and load it once"
        ) from error


def _check_whole(pipe: Any, variant: str | None, given: Set[str]) -> None:
    """Raise if a model lacks weights; diffusers does that for its own, transformers does not.

    Only the heads of the files are read again. What quantised files hold is not known by name.
    """
    from transformers import PreTrainedModel  # slow to import

    for name, part in pipe.components.items():
        of_transformers = isinstance(part, PreTrainedModel) and name not in given
        if not of_transformers or getattr(part, "hf_quantizer", None) is not None:
            continue
        folder = Path(part.name_or_path)  # in the cache, for what came from the hub
        if not folder.is_dir():
            continue
        # Diffusers reads the usual files of a part that has none of the variant.
        has_variant = variant is not None and any(folder.glob(f"*.{variant}*"))
        _, found = type(part).from_pretrained(
            folder,
            variant=variant if has_variant else None,
            device_map="meta",
            use_safetensors=True,
            output_loading_info=True,
        )
        refuse_missing_weights(found, folder, type(part).__name__)


def _check_folder(folder: Path) -> None:
    """Raise unless a folder holds a pipeline whose weights can be read without pickle."""
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no model_index.json, so it is no diffusers pipeline; save one there "
            "with pipe.save_pretrained(folder)"
        )
    for component in sorted(path for path in folder.iterdir() if path.is_dir()):
        refuse_pickled_weights(component)
