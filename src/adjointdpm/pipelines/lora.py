"""LoRA adapters as the weights to train: a few millions in place of billions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..formats import NO_PEFT
from .trained import freeze

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The projections of attention, as diffusers' networks name them."""


def add_lora(
    pipe_or_module: Any,
    rank: int = 4,
    *,
    lora_alpha: float | None = None,
    target_modules: Sequence[str] = ATTENTION,
    init_lora_weights: bool | str = "gaussian",
    adapter_name: str = "default",
) -> list[nn.Parameter]:
    """Add a LoRA adapter (arXiv 2106.09685) to a network, and freeze all but the adapter.

    Its update starts at zero, so that the pictures are the same until it is trained. Under weights
    in half precision it is kept in float32, in which small updates are not lost. `Exact` then takes
    the gradients of the adapter only. Save it with `formats.save_lora`.

    Args:
        pipe_or_module: a pipeline, whose UNet or transformer gets the adapter and whose other parts
            are frozen too; or a model of diffusers or transformers, such as a text encoder.
        rank: of the update.
        lora_alpha: the update is scaled by ``lora_alpha / rank``; the rank by default.
        target_modules: ends of the names of the layers that get one.
        init_lora_weights: of peft's ``LoraConfig``.
        adapter_name: to tell several apart.

    Returns:
        The adapter's weights, ready for an optimiser.

    Raises:
        ImportError: peft is not installed.
        ValueError: the rank is not positive, no layer has such a name, or the adapter exists.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ImportError(NO_PEFT) from None

    module: Any = pipe_or_module
    if not isinstance(pipe_or_module, nn.Module):
        module = getattr(pipe_or_module, "unet", None) or pipe_or_module.transformer
    _check_fits(module, rank, target_modules)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank if lora_alpha is None else lora_alpha,
        target_modules=list(target_modules),
        init_lora_weights=init_lora_weights,
    )
    freeze(pipe_or_module)
    if hasattr(module, "add_adapter"):
        module.add_adapter(config, adapter_name)
    elif adapter_name in getattr(module, "peft_config", {}):
        raise ValueError(f"there is an adapter {adapter_name!r} already; give another adapter_name")
    else:  # diffusers gives PixArt's and DiT's transformers no method for it
        inject_adapter_in_model(config, module, adapter_name)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    return parameters


def _check_fits(module: nn.Module, rank: int, target_modules: Sequence[str]) -> None:
    """Raise before anything is changed: an adapter that fails half-way leaves its traces."""
    if rank < 1:
        raise ValueError(f"rank must be at least 1, not {rank}")
    known = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
    names = [
        name.removesuffix(".base_layer")  # of one that has an adapter already
        for name, layer in module.named_modules()
        if isinstance(layer, known) and ".lora_" not in name
    ]
    if not any(f".{name}".endswith(f".{target}") for name in names for target in target_modules):
        ends = sorted({".".join(name.split(".")[-2:]) for name in names})
        raise ValueError(
            f"no linear or convolutional layer of {type(module).__name__} has a name that ends in "
            f"{' or '.join(target_modules) or 'nothing'}; theirs end in {', '.join(ends)}"
        )
