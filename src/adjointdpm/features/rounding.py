"""Rounding and thresholds, with a gradient that leads somewhere.

Their derivative is zero wherever there is one, so that an optimiser stands still. Each function
here takes ``gradient``:

- ``straight_through``: the value is the rounded one, and the gradient that of a smooth function
  (arXiv 1308.3432). What is optimised is what will be measured; the direction is an approximation.
- ``smooth``: value and gradient are those of the smooth function. The direction is right, for a
  metric that is a little another.
- ``exact``: the derivative, which is zero.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from .surrogate import straight_through

RoundingGradient = Literal["straight_through", "smooth", "exact"]


def check_gradient(gradient: str) -> None:
    """Raise unless it is one of the three.

    Raises:
        ValueError: it is not.
    """
    if gradient not in get_args(RoundingGradient):
        known = ", ".join(get_args(RoundingGradient))
        raise ValueError(f"gradient must be one of {known}, not {gradient!r}")


def quantize(
    images: Tensor,
    levels: int = 256,
    gradient: RoundingGradient = "straight_through",
    sharpness: float = 4.0,
) -> Tensor:
    """Round values in [0, 1] to evenly spaced levels, as files of 8 bits do to 256.

    Straight through, the gradient is that of the identity. The smooth form is the soft rounding of
    Agustsson and Theis (arXiv 2006.09952), whose slope is 1 on average.

    Args:
        images: values in [0, 1], of any shape.
        levels: how many there are, at least 2.
        gradient: which gradient, see above.
        sharpness: how near to rounding the smooth form is; near 0 it is the identity.

    Raises:
        ValueError: too few levels, no such gradient, or a sharpness that is not positive.

    >>> quantize(torch.tensor([0.1, 0.3, 0.9]), levels=3)
    tensor([0.0000, 0.5000, 1.0000])
    """
    check_gradient(gradient)
    if levels < 2 or not sharpness > 0:
        raise ValueError(
            f"levels must be at least 2 and sharpness positive, not {levels} and {sharpness}"
        )
    scaled = images * (levels - 1)
    if gradient == "smooth":
        below = scaled.detach().floor()
        centred = torch.tanh(sharpness * (scaled - below - 0.5))
        steepest = torch.tanh(torch.as_tensor(sharpness / 2, dtype=images.dtype))
        return (below + 0.5 + 0.5 * centred / steepest) / (levels - 1)
    rounded = scaled.round() / (levels - 1)
    return rounded if gradient == "exact" else straight_through(rounded, images)


def exceeds(
    values: Tensor,
    threshold: float = 0.0,
    gradient: RoundingGradient = "straight_through",
    width: float = 1.0,
) -> Tensor:
    """Return 1 where values are above a threshold, and 0 elsewhere.

    Straight through, the gradient is that of the smooth form: a logistic function around the
    threshold. It needs the width: farther off than some widths there is no gradient either.

    Args:
        values: of any shape.
        threshold: where the step is.
        gradient: which gradient, see above.
        width: of the logistic function, in the unit of the values; about how far they are from the
            threshold at the start is a good choice.

    Raises:
        ValueError: no such gradient, or a width that is not positive.

    >>> exceeds(torch.tensor([-0.2, 0.3]))
    tensor([0., 1.])
    """
    check_gradient(gradient)
    if not width > 0:
        raise ValueError(f"width must be positive, not {width}")
    smooth = torch.sigmoid((values - threshold) / width)
    if gradient == "smooth":
        return smooth
    step = (values - threshold).sign().clamp(min=0)
    return step if gradient == "exact" else straight_through(step, smooth)
