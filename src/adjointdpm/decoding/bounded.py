"""Decoding with bounded memory: blocks, slices, tiles and chunks of frames are run again backwards.

Autoencoders decode in calls of their ``decoder``: one for each slice of the batch, each tile, each
chunk of frames. Such a call is a unit of work, and its blocks (residual blocks, attention,
upsampling) are units within it. The graph of a unit is made in the backward pass only, so that
what is alive at once is the outputs of the calls, the inputs of one call's blocks, and the graph of
one block. Caches that causal convolutions carry from chunk to chunk are arguments and results of
the calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..recompute import Recompute, intercepted, is_compiled, refuse_moving_weights


@contextmanager
def bounded_decode(
    vae: nn.Module,
    slice_size: int | None = 1,
    checkpoint_blocks: bool = True,
    *,
    same_environment: bool = True,
) -> Iterator[None]:
    """Let ``vae.decode`` have bounded memory in this block.

    Args:
        vae: an autoencoder of diffusers; its tiles and slices are those that it was told to use.
        slice_size: how many of a batch are decoded at once; None for all. It only matters to
            autoencoders that treat each member of a batch alone (those with ``use_slicing``).
        checkpoint_blocks: whether the blocks of the decoder are units of their own.
        same_environment: see `Recompute`.

    Raises:
        ValueError: (in a call) the weights require grad but are offloaded.
    """
    if slice_size is not None and slice_size < 1:
        raise ValueError(f"slice_size must be at least 1, or None for the batch, not {slice_size}")
    vae = getattr(vae, "_orig_mod", vae)
    if "decode" in vars(vae):  # compiled, or replaced by the user
        yield
        return
    recompute = Recompute(same_environment=same_environment)
    bounded = _Bounded(vae, slice_size, checkpoint_blocks, recompute)
    with intercepted({(vae, "decode"): bounded.decode}):
        yield


class _Bounded:
    """One use of an autoencoder; the units of all its calls share what they record."""

    def __init__(
        self,
        vae: nn.Module,
        slice_size: int | None,
        checkpoint_blocks: bool,
        recompute: Recompute,
    ) -> None:
        self._vae = vae
        self._slice_size = slice_size if hasattr(vae, "use_slicing") else None
        self._decoder = getattr(vae, "decoder", None)
        # A decoder with gradient checkpointing runs its blocks again itself, after this block.
        if getattr(vae, "is_gradient_checkpointing", False):
            checkpoint_blocks = False
        self._blocks = blocks(self._decoder) if checkpoint_blocks and self._decoder else []
        self._recompute = recompute

    def decode(self, stock: Callable[..., Any], z: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Decode in slices, each of whose decoder calls is a unit."""
        if not torch.is_grad_enabled():
            return stock(z, *args, **kwargs)
        refuse_moving_weights(self._vae)
        slices = _slices((z, *args), kwargs, z.shape[0], self._slice_size or z.shape[0])
        several = len(slices) > 1 or _works_in_parts(self._vae, z)
        results = [self._decode_slice(stock, several, *a, **k) for a, k in slices]
        return results[0] if len(results) == 1 else pytree.tree_map(_join, *results)

    def _decode_slice(
        self, stock: Callable[..., Any], several: bool, *args: Any, **kwargs: Any
    ) -> Any:
        if self._decoder is None:
            return self._recompute(stock, self._vae, args, kwargs)
        # A single call as a unit would be run once more than its blocks need.
        answer = self._unit if several else self._in_blocks
        with intercepted({(self._decoder, "__call__"): answer}):
            return stock(*args, **kwargs)

    def _unit(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        assert self._decoder is not None
        return self._recompute(partial(self._in_blocks, stock), self._decoder, args, kwargs)

    def _in_blocks(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with intercepted({(block, "__call__"): self._block(block) for block in self._blocks}):
            return stock(*args, **kwargs)

    def _block(self, block: nn.Module) -> Callable[..., Any]:
        def answer(stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return self._recompute(partial(self._on_device, stock), block, args, kwargs)

        return answer

    def _on_device(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        hook = getattr(self._vae, "_hf_hook", None)
        if hook is not None and hasattr(hook, "pre_forward"):
            hook.pre_forward(self._vae)
        return stock(*args, **kwargs)


def _slices(
    args: tuple[Any, ...], kwargs: dict[str, Any], batch: int, size: int
) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return the arguments of each slice: of tensors with the batch's length, their part."""

    def part(value: Any, start: int) -> Any:
        is_batched = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch
        return value[start : start + size] if is_batched else value

    return [
        pytree.tree_map(partial(part, start=start), (args, kwargs))
        for start in range(0, batch, size)
    ]


def _join(*parts: Any) -> Any:
    return torch.cat(parts) if isinstance(parts[0], Tensor) else parts[0]


def _works_in_parts(vae: Any, z: Tensor) -> bool:
    """Say whether an autoencoder may call its decoder several times for these latents."""
    is_video = z.ndim == 5 and z.shape[2] > 1
    slices = getattr(vae, "use_slicing", False) and z.shape[0] > 1
    return bool(getattr(vae, "use_tiling", False) or slices or is_video)


def blocks(decoder: nn.Module) -> list[nn.Module]:
    """Return the largest parts of a decoder that are not themselves stacks of blocks.

    A stack is a container of modules that have parts, or a module with such containers: stacks of
    residual blocks, and stages of those. What has no parts (a first and a last convolution) is left
    as it is.
    """
    found: list[nn.Module] = []
    for child in decoder.children():
        if _is_stack(child):
            found += blocks(child)
        elif _has_parts(child) and not isinstance(child, nn.ModuleList):
            found.append(child)
    return found


def _is_stack(module: nn.Module) -> bool:
    if is_compiled(module) or "Att" in type(module).__name__:
        return False
    containers = (
        child
        for child in (module, *module.children())
        if isinstance(child, nn.ModuleList | nn.Sequential)
    )
    return any(_has_parts(part) for container in containers for part in container.children())


def _has_parts(module: nn.Module) -> bool:
    return next(module.children(), None) is not None
