"""Implicit Adams methods by predictor and corrector, with the weights of the actual grid."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from .multistep import STARTERS, lagrange_integrals
from .runge_kutta import EULER, Drift, step
from .tape import Row


def adams_moulton(
    order: int,
    drift: Drift,
    taus: Sequence[float],
    u: Row,
    *,
    open_end: bool = False,
    corrections: int = 1,
) -> Row:
    """Integrate with the implicit Adams method of the given order (Hairer et al., III.1, PECE).

    The implicit equation is solved by a fixed number of fixed-point iterations from the explicit
    Adams method of one order less, so that the sampler stays linear in the network's outputs. One
    iteration is enough for the full order; more of them come nearer to the implicit method itself,
    whose stability is better, where the fixed-point map contracts. A step costs ``1 +
    corrections`` calls; the first ``order - 2`` steps are Runge-Kutta steps.

    Args:
        order: 2 (the trapezoidal rule), 3 or 4.
        drift: the right side.
        taus: grid from start to end.
        u: state at the start.
        open_end: the last step is an Euler step to the clean image, as in `runge_kutta`.
        corrections: fixed-point iterations a step, at least 1.
    """
    if corrections < 1:
        raise ValueError(f"corrections must be at least 1, not {corrections}")
    times: list[float] = []
    slopes: list[Row] = []
    for i, (tau, following) in enumerate(pairwise(taus)):
        if open_end and i == len(taus) - 2:
            return step(EULER, drift, u, tau, following - tau)[0]
        if len(slopes) < order - 2:
            u, stages = step(STARTERS[order], drift, u, tau, following - tau)
            times, slopes = [*times, tau], [*slopes, stages[0]]
            continue
        times = [*times, tau][-(order - 1) :]
        slopes = [*slopes, drift(u, tau)][-(order - 1) :]
        ahead = u + _dot(lagrange_integrals(times, tau, following), slopes)
        weights = lagrange_integrals([*times, following], tau, following)
        for _ in range(corrections):
            ahead = u + _dot(weights, [*slopes, drift(ahead, following, starts_step=False)])
        u = ahead
    return u


def _dot(weights: np.ndarray, rows: Sequence[Row]) -> Row:
    return np.einsum("j,j...->...", weights, np.stack(rows))
