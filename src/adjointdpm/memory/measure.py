"""How many bytes live at once, and how many autograd saves."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LiveMemory(TorchDispatchMode):
    """Tracks the storages made within the block: ``peak`` is the most that lived at once.

    On any device, to the byte and the same in every run: the resident memory of a CPU process
    depends on what its allocator gives back. Compiled networks run uncompiled within the block.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        before = {storage._cdata for storage in _storages((*args, *kwargs.values()))}
        result = func(*args, **kwargs)
        for storage in _storages((result,)):
            if storage._cdata not in before:
                self._born(storage)
        return result

    def _born(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known[key] = weakref.ref(storage, lambda _: self._died(key, size))
        self.live += size
        self.peak = max(self.peak, self.live)

    def _died(self, key: int, size: int) -> None:
        del self._known[key]
        self.live -= size


def _storages(values: Iterable[Any]) -> Iterator[torch.UntypedStorage]:
    """Yield those of what an operator takes or returns: tensors, and lists of them."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _storages(value)
        elif _real(value):
            yield value.untyped_storage()


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
