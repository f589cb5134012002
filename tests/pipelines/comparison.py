"""Comparing a pipeline with the stock one.

The stock call with gradients is ``__call__.__wrapped__``, the same code without ``no_grad``.
"""

import torch
from torch import Tensor


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


def assert_same_gradients(ours, theirs, tolerance):
    for mine, other in zip(ours, theirs, strict=True):
        assert other.any()
        assert_same(mine, other, tolerance)
