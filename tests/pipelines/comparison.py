"""Comparing a pipeline with the stock one.

The stock call with gradients is ``__call__.__wrapped__``, the same code without ``no_grad``.
"""

import functools

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def with_gradient(pipe, **arguments):
    return type(pipe).__call__.__wrapped__(pipe, **arguments)


def assert_same(ours, theirs, tolerance):
    """Equal to a share of the largest value."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def gradients(sample: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(sample.shape, generator=generator, dtype=sample.dtype)
    return torch.autograd.grad((sample * weights).sum(), inputs)


def assert_same_gradients(ours, theirs, tolerance, exact=None):
    """Equal to a share of the largest value, or as near as rounding lets theirs come to ``exact``.

    Where large terms cancel, such as for weights of attention that is nearly saturated, their own
    gradient is off by more than the tolerance. Ours is of the same operations in another order and
    off by as much: by the triangle inequality they are at most twice that apart, here doubled.
    """
    for mine, other, unrounded in zip(ours, theirs, exact or theirs, strict=True):
        assert other.any()
        rounding = 4 * (other - unrounded).abs().max()
        assert mine.shape == other.shape
        assert (mine - other).abs().max() <= torch.maximum(tolerance * other.abs().max(), rounding)


class KeepDouble(TorchFunctionMode):
    """Leaves in float64 what schedulers and networks cast to float32: the same code, unrounded.

    Only a column of times is cast, as those that the stock pipeline passes are float32 or integer.

    Args:
        least_dims: leave only tensors of as many dimensions: in a pipeline, latents but not times.
    """

    def __init__(self, least_dims=0):
        super().__init__()
        self.least_dims = least_dims

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func not in (Tensor.to, Tensor.float) or args[0].dtype != torch.float64:
            return result
        kept = args[0].ndim >= self.least_dims and args[0].shape[1:] != (1,)
        return args[0] if kept and result.dtype == torch.float32 else result


def unrounded(function):
    """The function with nothing cast to float32, called again in `backward` too."""

    def wrapped(*args, **kwargs):
        with KeepDouble():
            return function(*args, **kwargs)

    return functools.update_wrapper(wrapped, function)


def unround_(pipe):
    """Let the scheduler and the networks of a pipeline compute unrounded, in `backward` too."""
    pipe.scheduler.step = unrounded(pipe.scheduler.step)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.forward = unrounded(part.forward)
