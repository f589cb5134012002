"""Embedded Runge-Kutta pairs and the control of the step size: numbers alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .runge_kutta import BOGACKI_SHAMPINE, DORMAND_PRINCE, HEUN, Tableau

SAFETY, MIN_FACTOR, MAX_FACTOR = 0.9, 0.2, 5.0


@dataclass(frozen=True)
class EmbeddedPair:
    """A Runge-Kutta method and the weights of its error estimate.

    Args:
        tableau: the method that is advanced with.
        error: weights of the difference to the embedded method, on the stages and, where there is
            one more of them, on the slope at the end of the step.
        error_order: order of the estimate in the step length: one more than the lower order.
    """

    tableau: Tableau
    error: tuple[float, ...]
    error_order: int


PAIRS: dict[str, EmbeddedPair] = {
    "heun": EmbeddedPair(HEUN, (-1 / 2, 1 / 2), 2),
    "bs3": EmbeddedPair(BOGACKI_SHAMPINE, (-5 / 72, 1 / 12, 1 / 9, -1 / 8), 3),
    "dopri5": EmbeddedPair(
        DORMAND_PRINCE,
        (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
        5,
    ),
}
"""Heun-Euler 2(1), Bogacki-Shampine 3(2), Dormand-Prince 5(4) (Hairer et al., II.4 and II.5)."""


def step_factor(error: float, previous: float, order: int) -> float:
    """Return what to multiply the step length with after a step: a PI controller.

    After an accepted step ``0.9 e^(-0.7/k) e_previous^(0.4/k)`` (Hairer et al., IV.2, eq. 2.43).

    Args:
        error: of the step in units of the tolerance; accepted where it is at most 1.
        previous: the error of the accepted step before.
        order: k, of the error estimate in the step length.

    >>> step_factor(4.0, 1.0, 2), step_factor(0.0625, 1.0, 2)
    (0.45, 2.375...)
    """
    if error <= 1:
        factor = SAFETY * error ** (-0.7 / order) * previous ** (0.4 / order)
    else:
        factor = min(SAFETY * error ** (-1 / order), 1.0) if math.isfinite(error) else MIN_FACTOR
    return min(max(factor, MIN_FACTOR), MAX_FACTOR)


def first_guess(size: float, steepness: float, span: float) -> float:
    """Return the length of a trial step that tells how fast the slope changes."""
    small = min(size, steepness) < 1e-5
    return min(1e-6 if small else 0.01 * size / steepness, span)


def first_step_length(
    steepness: float, bend: float, guess: float, span: float, order: int
) -> float:
    """Return the length of a first step (Hairer et al., II.4), all sizes in units of the tolerance.

    Args:
        steepness: of its slope.
        bend: of the change of the slope over an Euler step of ``guess``, for a step of 1.
        guess: what `first_guess` gives.
        span: of the whole way.
        order: of the error estimate.
    """
    steepest = max(steepness, bend)
    h = max(1e-6, 1e-3 * guess) if steepest <= 1e-15 else (0.01 / steepest) ** (1 / order)
    return min(100 * guess, h, span)
