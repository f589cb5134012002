"""How many bytes live at once, and how many autograd saves."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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
    """Say whether it is a tensor with one storage; a sparse one has none of its own."""
    return isinstance(leaf, Tensor) and leaf.layout == torch.strided


def peak_on(device: torch.device, run: Callable[[], Any]) -> int:
    """Return the most bytes that ``run`` takes at once: on CUDA as its allocator counts them."""
    if device.type != "cuda":
        return peak_bytes(run)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


def peak_bytes(run: Callable[[], Any]) -> int:
    """Return the most bytes of tensors that ``run`` made and held at once."""
    with LiveMemory() as memory:
        run()
    return memory.peak


class SavedBytes:
    """Counts the bytes that autograd saves in a block, each storage once.

    Args:
        besides: tensors that are alive anyway, whose storage does not count.
    """

    def __init__(self, besides: Iterable[Tensor]) -> None:
        # Kept, for what is freed in the block would leave its address to what is saved.
        self._besides = [tensor.untyped_storage() for tensor in besides if _real(tensor)]
        self._seen = {storage._cdata for storage in self._besides}
        self.total = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count within a block."""
        # Detached, since a saved output that held itself would never be freed.
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def has(self, tensor: Tensor) -> bool:
        """Return whether a tensor was saved, or is one of those that do not count."""
        return _real(tensor) and tensor.untyped_storage()._cdata in self._seen

    def _pack(self, tensor: Tensor) -> Tensor:
        if not _real(tensor):
            return tensor.detach()
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self.total += storage.nbytes()
        return tensor.detach()
