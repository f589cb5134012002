"""Gradients through float16, which holds nothing below 6e-8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def power_above(adjoint: Tensor) -> Tensor:
    """Return the power of two just above the largest entry, as a tensor: nothing is waited for."""
    return torch.frexp(adjoint.detach().abs().amax()).exponent.clamp(-126, 126)


def times_power(tensor: Tensor, exponent: Tensor) -> Tensor:
    """Return a tensor times a power of two, in float32 or better."""
    return torch.ldexp(tensor.to(torch.promote_types(tensor.dtype, torch.float32)), exponent)


class _Scale:
    """The power of two by which one backward pass was scaled."""

    exponent: Tensor


class _ToFloat16(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: _Scale) -> Tensor:
        ctx.scale, ctx.dtype = scale, x.dtype
        return x.to(torch.float16)

    @staticmethod
    def backward(ctx: Any, *adjoints: Tensor) -> tuple[Tensor, None]:
        return times_power(adjoints[0].to(ctx.dtype), ctx.scale.exponent), None


class _FromFloat16(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype, scale: _Scale) -> Tensor:
        ctx.scale = scale
        return x.to(dtype)

    @staticmethod
    def backward(ctx: Any, *adjoints: Tensor) -> tuple[Tensor, None, None]:
        ctx.scale.exponent = power_above(adjoints[0])
        scaled = times_power(adjoints[0], -ctx.scale.exponent)
        return scaled.to(torch.float16), None, None


def through_float16(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return a function of ``x`` in float16, in the dtype of ``x``, with a gradient of any size.

    The adjoint goes through the function with its largest entry between 1/2 and 1; the power of two
    is taken back in the dtype of ``x``.

    Args:
        function: of a float16 tensor. Nothing in it may require grad besides its argument: other
            gradients would keep the power of two.
        x: its argument, in float32 or float64.

    >>> x = torch.ones(3, requires_grad=True)
    >>> through_float16(lambda half: 2 * half, x).mul(2.0**-40).sum().backward()
    >>> x.grad == 2.0**-39
    tensor([True, True, True])
    """
    scale = _Scale()
    return _FromFloat16.apply(function(_ToFloat16.apply(x, scale)), x.dtype, scale)
