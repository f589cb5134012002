"""Linear multistep methods with the weights of the actual, non-uniform grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import numpy as np

from .runge_kutta import EULER, HEUN, RK4, Drift, step
from .tape import Row

STARTERS = {1: EULER, 2: HEUN, 3: RK4, 4: RK4}
"""The one-step methods that give an Adams method of each order its first values."""


@cache
def gauss_legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights of Gauss-Legendre quadrature on [-1, 1]."""
    return np.polynomial.legendre.leggauss(count)


def lagrange_integrals(
    nodes: Sequence[float],
    start: float,
    end: float,
    weight: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Integrate over [start, end] the Lagrange polynomials of the nodes.

    Without a weight function the integrals are exact; with one, quadrature of 32 points is exact to
    rounding where the weight is smooth, as an exponential is.

    >>> lagrange_integrals([0.0, -1.0], 0.0, 1.0)  # Adams-Bashforth 2
    array([ 1.5, -0.5])
    """
    points, weights = gauss_legendre(32 if weight else len(nodes) // 2 + 1)
    points = 0.5 * (end - start) * points + 0.5 * (end + start)
    if weight:
        weights = weights * weight(points)
    basis = [
        math.prod(
            [(points - other) / (node - other) for other in nodes if other != node], start=1.0
        )
        for node in nodes
    ]
    return np.array([0.5 * (end - start) * np.sum(weights * values) for values in basis])


def adams_bashforth(
    order: int, drift: Drift, taus: Sequence[float], u: Row, *, open_end: bool = False
) -> Row:
    """Integrate with the explicit Adams method of the given order (Hairer et al., III.5).

    The first ``order - 1`` steps are Runge-Kutta steps, so that the order is the method's own.
    Arguments as in `runge_kutta`.
    """
    slopes: list[tuple[float, Row]] = []
    for i, (tau, following) in enumerate(pairwise(taus)):
        to_open_end = open_end and i == len(taus) - 2
        if len(slopes) < order - 1 and not to_open_end:
            u, stages = step(STARTERS[order], drift, u, tau, following - tau)
            slopes.append((tau, stages[0]))
        else:
            slopes = [*slopes, (tau, drift(u, tau))][-order:]
            weights = lagrange_integrals([t for t, _ in slopes], tau, following)
            u = u + sum(w * k for w, (_, k) in zip(weights, slopes, strict=True))
    return u
