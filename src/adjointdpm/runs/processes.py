"""Several processes that make one run: each computes its share of a batch, one of them writes.

Gradients are averaged by the loop and not by `DistributedDataParallel`, since what is optimised is
often a bare tensor (noise, an embedding) that no module holds. Where a module is wrapped all the
same, the average of what it has averaged is that again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..sharded import is_sharded

LONGEST = 4096
"""Bytes of a text that processes agree on: those of a path."""

Batch = TypeVar("Batch", Tensor, Sequence)


def join_processes() -> None:
    """Join the others, if ``accelerate launch`` or ``torchrun`` started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    dist.init_process_group()  # gloo for tensors on the CPU, and nccl where there are GPUs


def local_rank() -> int:
    """Return the number of this process on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def num_processes() -> int:
    """Return how many processes make this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_index() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main_process() -> bool:
    """Return whether this process is the one that writes."""
    return process_index() == 0


def share(batch: Batch) -> Batch:
    """Return the part of a batch that this process is to compute; all of it if it is alone.

    Every process draws the whole batch, from equal generators, and takes its part. Then several
    processes see what one would have seen.

    Args:
        batch: a tensor, split along its first dimension, or a sequence.

    Raises:
        ValueError: it cannot be split evenly, so that the mean of means would not be the mean.
    """
    count = num_processes()
    size, rest = divmod(len(batch), count)
    if rest:
        raise ValueError(
            f"a batch of {len(batch)} cannot be split evenly over {count} processes; take a "
            f"multiple of {count}"
        )
    start = process_index() * size
    return batch[start : start + size]


def wait_for_processes() -> None:
    """Return once every process has come here."""
    if num_processes() > 1:
        all_gather(torch.zeros(1))


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Give every process the values that tensors have in the first; sharded ones stay."""
    if num_processes() > 1:
        for tensor in tensors:
            if not is_sharded(tensor):
                dist.broadcast(tensor.detach(), src=0)


def agreed(text: str) -> str:
    """Return what a text is in the first process."""
    if num_processes() == 1:
        return text
    letters = torch.frombuffer(bytearray(text.encode().ljust(LONGEST)), dtype=torch.uint8)
    return bytes(all_gather(letters)[0].tolist()).decode().rstrip()


def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their means over all processes, in few messages.

    Gradients of sharded weights stay: FSDP has averaged them as they arrived.
    """
    if num_processes() == 1:
        return
    tensors = [tensor for tensor in tensors if not is_sharded(tensor)]

    def kind(tensor: Tensor) -> str:
        return f"{tensor.device} {tensor.dtype}"

    for _, same in groupby(sorted(tensors, key=kind), key=kind):
        group = list(same)
        joined = torch.cat([tensor.reshape(-1) for tensor in group])
        dist.all_reduce(joined)
        parts = (joined / num_processes()).split([tensor.numel() for tensor in group])
        for tensor, part in zip(group, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def all_gather(tensor: Tensor) -> list[Tensor]:
    """Return what a tensor on the CPU is in each process."""
    if num_processes() == 1:
        return [tensor]
    device = "cpu" if "cpu:" in dist.get_backend_config() else "cuda"
    found = [torch.empty_like(tensor, device=device) for _ in range(num_processes())]
    dist.all_gather(found, tensor.to(device))
    return [part.cpu() for part in found]
