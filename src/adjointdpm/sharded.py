"""Weights that FSDP2 (``fully_shard``) spreads over processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a process has a part of a tensor only."""
    return hasattr(tensor, "device_mesh")


def num_shards(tensor: Any) -> int:
    """Return over how many processes a tensor is spread."""
    return tensor.device_mesh.size() if is_sharded(tensor) else 1


def local(tensor: Any) -> Tensor:
    """Return what this process has of a tensor: all of it, unless it is sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Any) -> Tensor:
    """Return all of a tensor; of a sharded one in every process, which all have to ask for it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def sharded_parts(module: nn.Module) -> list[Any]:
    """Return the parts of a module that ``fully_shard`` was applied to."""
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(fsdp, "FSDPModule", None)
    return [] if kind is None else [part for part in module.modules() if isinstance(part, kind)]


def reshard(module: nn.Module) -> None:
    """Let nothing of a module be gathered.

    What FSDP leaves gathered after a call (the outermost part) is what the weights were then.
    """
    for part in sharded_parts(module):
        part.reshard()


@contextmanager
def as_saved(module: nn.Module) -> Iterator[None]:
    """Let a module look as it did before it was sharded to whoever saves it in a block.

    Its ``state_dict`` has whole weights, on the CPU, and its class is its own, whose name
    configurations have in them. All processes have to enter, and to ask for the ``state_dict``.

    Args:
        module: any; one that is not sharded looks as it always does.
    """
    parts = sharded_parts(module)
    classes = [type(part) for part in parts]
    handle = module.register_state_dict_post_hook(_make_whole) if parts else None
    try:
        for part, kind in zip(parts, classes, strict=True):
            part.__class__ = _original(kind)
        yield
    finally:
        for part, kind in zip(parts, classes, strict=True):
            part.__class__ = kind
        if handle is not None:
            handle.remove()


def _make_whole(
    module: nn.Module, state: dict[str, Any], prefix: str, metadata: Mapping[str, Any]
) -> None:
    for name, value in state.items():
        if isinstance(value, Tensor) and is_sharded(value):
            state[name] = whole(value).cpu()


def _original(kind: type) -> type:
    """Return the class that ``fully_shard`` has derived another from."""
    names = [base.__name__ for base in kind.__mro__]
    return kind.__mro__[names.index("FSDPModule") + 1]
