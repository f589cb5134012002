"""Linear multistep methods with the weights of the actual, non-uniform grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..prediction import to_sample
from .form import Point
from .runge_kutta import EULER, HEUN, RK4, Drift, step
from .tape import Row, Tape

STARTERS = {1: EULER, 2: HEUN, 3: RK4, 4: RK4}
"""The one-step methods that give an Adams method of each order its first values."""


def lagrange_integrals(nodes: Sequence[float], start: float, end: float) -> np.ndarray:
    """Integrate over [start, end] the Lagrange polynomials of the nodes, exactly.

    >>> lagrange_integrals([0.0, -1.0], 0.0, 1.0)  # Adams-Bashforth 2
    array([ 1.5, -0.5])
    """
    points, weights = np.polynomial.legendre.leggauss(len(nodes) // 2 + 1)
    points = 0.5 * (end - start) * points + 0.5 * (end + start)
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


def dpmpp_2m(tape: Tape, points: Sequence[Point], prediction_type: str, x: Row) -> Row:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2): second order in log-SNR, in data form.

    The first step, and one to the clean image, are of first order.
    """
    previous: tuple[float, Row] | None = None
    for point, following in pairwise(points):
        a, b = to_sample(prediction_type, point.alpha, point.sigma)
        sample = a * x + b * tape.call(x, point.t)
        h = _log_snr(following) - _log_snr(point)
        estimate = sample
        if previous is not None and math.isfinite(h):
            last_h, last_sample = previous
            estimate = sample + 0.5 * (h / last_h) * (sample - last_sample)
        shrink = following.sigma / point.sigma
        x = shrink * x + (following.alpha - shrink * point.alpha) * estimate
        previous = h, sample
    return x


def _log_snr(point: Point) -> float:
    if point.alpha == 0 or point.sigma == 0:
        return -math.inf if point.alpha == 0 else math.inf
    return math.log(point.alpha / point.sigma)
