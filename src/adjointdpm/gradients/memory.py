"""Where latents are kept, how many bytes a graph holds, and how many a person allows."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Kept = Callable[[], Tensor]
"""A latent that was put aside: call it to have it back where it was."""


def in_place(tensor: Tensor) -> Kept:
    """Keep a latent on its own device."""
    return lambda: tensor


def on_host(tensor: Tensor) -> Kept:
    """Keep a latent in host memory; one that is there already stays as it is.

    Both copies wait in the stream of the network calls, not on the host: from pinned memory a
    latent is back in far less time than a network call takes, so nothing is fetched ahead.
    """
    device = tensor.device
    if device.type == "cpu":
        return in_place(tensor)
    if device.type == "meta":
        shape, dtype = tensor.shape, tensor.dtype
        return lambda: torch.empty(shape, dtype=dtype, device=device)
    # Without pinned memory a copy that is not waited for may be read before it is there.
    pinned = device.type == "cuda"
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
    host.copy_(tensor, non_blocking=pinned)
    return lambda: host.to(device, non_blocking=pinned)


UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 1024, "MI": 1024**2, "GI": 1024**3}


def parse_bytes(budget: int | str) -> int:
    """Return a number of bytes from a number or from text with a unit.

    >>> parse_bytes("4GiB"), parse_bytes("1.5 MB"), parse_bytes(10)
    (4294967296, 1500000, 10)
    """
    match = re.fullmatch(r"\s*([0-9.]+)\s*([KMG]?I?)B?\s*", str(budget).upper())
    if match is None or match[2] == "I":
        raise ValueError(
            f"memory budget {budget!r} is not understood; write 4GiB, 500MB or a number"
        )
    return int(float(match[1]) * UNITS[match[2]])


class SavedBytes:
    """Counts the bytes that autograd saves in a block, each storage once.

    Args:
        besides: tensors that are alive anyway, whose storage does not count.
    """

    def __init__(self, besides: Iterable[Tensor]) -> None:
        self._seen = {tensor.untyped_storage()._cdata for tensor in besides}
        self.total = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count within a block."""
        # Detached, since a saved output that held itself would never be freed.
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def has(self, tensor: Tensor) -> bool:
        """Return whether a tensor was saved, or is one of those that do not count."""
        return tensor.untyped_storage()._cdata in self._seen

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self.total += storage.nbytes()
        return tensor.detach()


class LiveMemory(TorchDispatchMode):
    """Tracks the storages made within the block: ``peak`` is the most that lived at once.

    On any device, to the byte and the same in every run: the resident memory of a CPU process
    depends on what its allocator gives back. Compiled networks run uncompiled within the block.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        before = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if _real(leaf)
        }
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if _real(leaf) and leaf.untyped_storage()._cdata not in before:
                self._born(leaf.untyped_storage())
        return result

    def _born(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._died, key, storage.nbytes())

    def _died(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _real(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.layout == torch.strided


def peak_bytes(run: Callable[[], Any]) -> int:
    """Return the most bytes of tensors that ``run`` made and held at once."""
    with LiveMemory() as memory:
        run()
    return memory.peak
