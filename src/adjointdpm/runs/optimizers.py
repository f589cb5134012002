"""The optimisers by name, one of them with its state in 8 bits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..sharded import is_sharded
from .config import OptimizerName


def build_optimizer(
    name: OptimizerName,
    parameters: Iterable[Tensor],
    learning_rate: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float | None = None,
) -> torch.optim.Optimizer:
    """Return an optimiser of the Adam family.

    Args:
        name: ``adam``; ``adamw`` (arXiv 1711.05101); or ``adamw8bit`` (arXiv 2110.02861), whose two
            moments take two bytes a weight in place of eight. Tensors of fewer than 4096 entries
            keep theirs in float32.
        parameters: what it changes.
        learning_rate: the step size.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: the optimiser's own default if None: 0 for ``adam``, else 0.01.

    Raises:
        ValueError: the name is not known.
        ImportError: ``adamw8bit`` without bitsandbytes.
    """
    classes: dict[str, type[torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
    if name == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError:
            raise ImportError(
                "adamw8bit needs bitsandbytes: pip install 'adjointdpm[8bit]', or use adamw"
            ) from None
        classes[name] = AdamW8bit
    if name not in classes:
        raise ValueError(f"optimizer must be adam, adamw or adamw8bit, not {name!r}")
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}
    arguments: dict[str, Any] = {"lr": learning_rate, "betas": betas, "eps": eps, **decay}
    # An update of many tensors at once takes them all sharded, or none.
    return classes[name]([{"params": same} for same in by_kind(parameters)], **arguments)


def by_kind(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Return the tensors that are sharded and those that are not, without empty lists."""
    found: dict[bool, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(is_sharded(tensor), []).append(tensor)
    return list(found.values())


def optimizer_state(
    optimizer: torch.optim.Optimizer, tensor: Tensor
) -> tuple[dict[str, Tensor], dict[str, int | float]]:
    """Return what an optimiser keeps for a tensor: copies of tensors, and numbers."""
    entries = optimizer.state[tensor].items()
    tensors = {key: value.clone() for key, value in entries if isinstance(value, Tensor)}
    return tensors, {key: value for key, value in entries if key not in tensors}


def set_optimizer_state(
    optimizer: torch.optim.Optimizer,
    tensor: Tensor,
    tensors: dict[str, Tensor],
    numbers: dict[str, int | float],
) -> None:
    """Give an optimiser back what `optimizer_state` returned."""
    # Counts of steps are on the CPU, so that nothing waits for them.
    moved = {k: v if v.ndim == 0 else v.to(tensor.device) for k, v in tensors.items()}
    optimizer.state[tensor] = {**moved, **numbers}
