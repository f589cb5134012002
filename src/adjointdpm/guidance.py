"""Classifier-free guidance: its weight, as a number, a tensor or a function of the time."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from torch import Tensor

from .conditioning import is_dense
from .per_step import PerStep

Weight = Callable[[Any], Any]
"""The weight of guidance for a time: a number for a number, a tensor for a tensor."""

GuidanceScale = float | Tensor | PerStep | Weight


def check_guidance_scale(scale: Any) -> None:
    """Raise unless ``scale`` can weigh guidance.

    Raises:
        TypeError: neither a number, nor a tensor, nor a function.
        ValueError: a number that is not finite, or a tensor that is not of real numbers.
    """
    if isinstance(scale, PerStep):
        scale = scale.values
    if isinstance(scale, Tensor):
        if scale.is_complex() or not is_dense(scale) or scale.is_meta:
            raise ValueError(
                f"guidance_scale must be a dense tensor of real numbers, not {scale.dtype} "
                f"({scale.layout}, on {scale.device}); give one number, or one for each sample"
            )
        if scale.device.type == "cpu" and not scale.isfinite().all():
            raise ValueError("guidance_scale has an entry that is not finite")
    elif isinstance(scale, Real):
        if not math.isfinite(scale):
            raise ValueError(f"guidance_scale must be finite, not {scale}")
    elif not callable(scale) or isinstance(scale, type):
        raise TypeError(
            "guidance_scale must be a number, a tensor with one for each sample, or a function of "
            f"the time that returns either, not {scale!r}"
        )


def is_off(scale: GuidanceScale) -> bool:
    """Say whether there is nothing to guide; a tensor's value is not looked at."""
    return isinstance(scale, Real) and scale == 1.0


def weight_at(scale: GuidanceScale, t: float | Tensor, x: Tensor) -> float | Tensor:
    """Return the weight of guidance at a time, in a shape that broadcasts against ``x``.

    Args:
        scale: the weight, by step, or a function of the time.
        t: the time.
        x: (batch, ...) input of the network.

    Raises:
        TypeError: a function that returns no weight.
        ValueError: a tensor that has not one weight, one for each sample or one for each entry.
    """
    value: Any = scale.at(t, len(x)) if isinstance(scale, PerStep) else scale
    if callable(scale):
        value = scale(t)
        if not isinstance(value, Tensor | Real):
            raise TypeError(
                f"guidance_scale is a function, and returned {type(value).__name__} for the time "
                f"{t}; it must return a number, or a tensor with one for each sample"
            )
        if isinstance(value, Real) and not math.isfinite(value):
            raise ValueError(f"guidance_scale is a function, and returned {value} at the time {t}")
    if not isinstance(value, Tensor):
        return float(value)
    if value.numel() == 1:
        return value.to(x).reshape(())
    if value.shape == x.shape[:1]:
        return value.to(x).reshape(-1, *[1] * (x.ndim - 1))
    if value.ndim == x.ndim and all(n in (1, m) for n, m in zip(value.shape, x.shape, strict=True)):
        return value.to(x)
    raise ValueError(
        f"guidance_scale has the shape {tuple(value.shape)}; for a batch of {len(x)} it must be "
        f"one number, ({len(x)},) for one each, or a shape that broadcasts against the latent's "
        f"{tuple(x.shape)}"
    )


def guide(
    unconditional: Tensor, conditional: Tensor, weight: float | Tensor, rescale: float
) -> Tensor:
    """Return the guided prediction.

    Args:
        unconditional: (batch, ...) prediction without the conditioning.
        conditional: the same with it.
        weight: of their difference.
        rescale: share rescaled to the standard deviation of the conditional one (arXiv 2305.08891,
            eq. 16).
    """
    guided = unconditional + weight * (conditional - unconditional)
    if rescale > 0.0:
        dims = tuple(range(1, guided.ndim))
        scale = conditional.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
        guided = guided * (1 + rescale * (scale - 1))
    return guided
