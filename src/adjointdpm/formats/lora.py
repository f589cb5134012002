"""LoRA adapters, as ``pipe.load_lora_weights`` loads them, with their alpha."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..sharded import as_saved
from ..storage import replacing
from .model_card import Artefact, write_model_card
from .provenance import Provenance

FILE = "pytorch_lora_weights.safetensors"

NO_PEFT = "LoRA adapters need peft: pip install 'adjointdpm[lora]'"
"""What is said where it is not installed."""


def save_lora(
    pipe: Any,
    folder: str | Path,
    *,
    adapter_name: str | None = None,
    provenance: Provenance | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Save the LoRA adapters of a pipeline as ``pipe.load_lora_weights(folder)`` loads them.

    The pipeline's own class writes the file, with each adapter's whole configuration beside the
    weights: without it, loading takes alpha for the rank, and the adapter acts rank / alpha times
    as strongly as in training.

    Args:
        pipe: a pipeline with adapters on its UNet, transformer or text encoders; see `add_lora`.
            They may be compiled, or wrapped in ``DistributedDataParallel`` (save on one rank), or
            sharded (call this in every process, with a folder for each).
        folder: also gets a model card.
        adapter_name: which, where there are several.
        provenance: that of ``pipe`` by default.
        settings: how it was trained, for the model card.

    Returns:
        The file.

    Raises:
        ValueError: there is no adapter, or none of that name, or the pipeline cannot save it.
        ImportError: peft is not installed.
    """
    try:
        from peft.utils import get_peft_model_state_dict
    except ImportError:
        raise ImportError(NO_PEFT) from None

    adapted = _adapted(pipe, adapter_name)
    arguments: dict[str, Any] = {}
    for name, (module, adapter) in adapted.items():
        with as_saved(module):
            state = get_peft_model_state_dict(module, adapter_name=adapter)
        # Of parts that are compiled on their own, within a module that is not.
        state = {key.replace("_orig_mod.", ""): weight for key, weight in state.items()}
        arguments[f"{name}_lora_layers"] = state
        config = module.peft_config[adapter].to_dict()
        arguments[f"{name}_lora_adapter_metadata"] = config
    cls = type(pipe)
    unknown = set(arguments) - set(inspect.signature(cls.save_lora_weights).parameters)
    if unknown:
        raise ValueError(f"{cls.__name__}.save_lora_weights does not take {min(unknown)}")
    path = Path(folder) / FILE
    with replacing(path) as partial:
        cls.save_lora_weights(partial.parent, weight_name=partial.name, **arguments)
    configs = {name: module.peft_config[adapter] for name, (module, adapter) in adapted.items()}
    described = {
        f"{name}: {key}": getattr(config, key)
        for name, config in configs.items()
        for key in ("r", "lora_alpha")
    }
    artefact = Artefact(
        title="A LoRA adapter",
        description=f"Low-rank updates of the {' and the '.join(adapted)}.",
        snippet='pipe.load_lora_weights(".")\nimage = pipe("a picture").images[0]',
        tags=("lora", "text-to-image"),
    )
    write_model_card(
        path.parent, artefact, provenance or Provenance.of(pipe), {**described, **(settings or {})}
    )
    return path


def unwrapped(module: Any) -> Any:
    """Return the module within one that ``torch.compile`` or data parallelism wraps.

    >>> import torch
    >>> linear = nn.Linear(2, 2)
    >>> unwrapped(torch.compile(linear)) is linear
    True
    """
    if hasattr(module, "_orig_mod"):
        return unwrapped(module._orig_mod)
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(module.module)
    return module


def check_saves_lora(pipe: Any) -> None:
    """Raise unless a pipeline loads LoRA files for its denoiser, and so saves them.

    Raises:
        ValueError: it does not.
    """
    if not {"unet", "transformer"} & set(getattr(pipe, "_lora_loadable_modules", ())):
        raise ValueError(
            f"{type(pipe).__name__} loads no LoRA for its UNet or transformer, so that nothing "
            "could load an adapter: train parts of the pipeline itself (trainable), such as "
            "trainable=['transformer']"
        )


def _adapted(pipe: Any, adapter_name: str | None) -> dict[str, tuple[Any, str]]:
    """Return the components that have an adapter, and its name in each."""
    found: dict[str, tuple[Any, str]] = {}
    for name in getattr(pipe, "_lora_loadable_modules", ()):
        module = unwrapped(getattr(pipe, name, None))
        adapters = list(getattr(module, "peft_config", {}))
        if adapter_name is not None:
            adapters = [adapter for adapter in adapters if adapter == adapter_name]
        if len(adapters) > 1:
            raise ValueError(f"{name} has the adapters {', '.join(adapters)}: set adapter_name")
        if isinstance(module, nn.Module) and adapters:
            found[name] = module, adapters[0]
    if not found:
        wanted = "a LoRA adapter" if adapter_name is None else f"an adapter {adapter_name!r}"
        raise ValueError(
            f"no part of {type(pipe).__name__} that can carry one has {wanted}: call add_lora first"
        )
    return found
