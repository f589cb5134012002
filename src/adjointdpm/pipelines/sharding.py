"""A network that is too large for one card, spread over the processes of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import torch.distributed as dist
from torch import nn

Pipe = TypeVar("Pipe")


def shard(pipe_or_module: Pipe, **options: Any) -> Pipe:
    """Spread the weights of a denoiser over all processes (FSDP2), block by block.

    Each block is gathered for the time of its call, forward and backward, and freed after it; each
    process draws its own part of the batch. What `Exact` computes is what one process would with
    the whole batch. To be called in every process, once adapters are added and parts frozen, and
    before an optimiser is given the weights: they are others afterwards. Does nothing in a process
    that is alone.

    Args:
        pipe_or_module: a pipeline, whose UNet or transformer is sharded; or a network.
        **options: of ``torch.distributed.fsdp.fully_shard``, such as ``mp_policy``.

    Returns:
        The same object.

    Example:
        torchrun --nproc_per_node 2 train.py, in which

        adp.trainable(pipe, "unet")
        adp.shard(pipe)
        weights = [p for p in pipe.unet.parameters() if p.requires_grad]
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return pipe_or_module
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    pipe: Any = pipe_or_module
    network: Any = pipe
    if not isinstance(pipe, nn.Module):
        network = getattr(pipe, "unet", None) or pipe.transformer
    device = next(network.parameters()).device.type
    options = {"mesh": init_device_mesh(device, (dist.get_world_size(),)), **options}
    # The outermost part too is freed after each call: weights may be others at the next one.
    for part in (*_blocks(network), network):
        fully_shard(part, reshard_after_forward=True, **options)
    return pipe_or_module


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts that are gathered one at a time: members of lists, and what has lists."""
    for child in network.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        elif any(isinstance(part, nn.ModuleList) for part in child.modules()):
            yield child
