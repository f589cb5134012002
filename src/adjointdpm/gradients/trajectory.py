"""Where a sampling run passes: the points of the process at its steps, and the states between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..plan import Plan
from ..process import Schedule
from ..solvers.form import Point

MARGINAL_TOLERANCE = 0.02
"""How far a plan's alpha and sigma may be from the schedule's, as a share of their sum."""


def solution_points(plan: Plan, schedule: Schedule) -> list[Point]:
    """Return the points of the process at the plan's steps, and the one where it ends."""
    if plan.num_draws:
        raise ValueError(
            f"this gradient method needs a deterministic sampler, but {plan.name} draws noise; use "
            "Exact(), which differentiates along the drawn path"
        )
    marginals = plan.marginals(schedule)
    points = [Point.at(schedule, float(plan.timesteps[k])) for k in plan.step_starts or ()]
    for point, k in zip(points, plan.step_starts or (), strict=True):
        if np.abs(marginals[k] - (point.alpha, point.sigma)).max() > MARGINAL_TOLERANCE * (
            point.alpha + point.sigma
        ):
            raise ValueError(
                f"{plan.name} was made for another noise schedule than the denoiser's: at timestep "
                f"{point.t:g} it takes (alpha, sigma) for {marginals[k].round(4).tolist()}, the "
                f"denoiser for {[round(point.alpha, 4), round(point.sigma, 4)]}. A gradient "
                "that follows the ODE needs both to agree"
            )
    alpha, sigma = (float(value) for value in marginals[-1])
    if abs(sigma) < 1e-5 * alpha:
        sigma = 0.0
    time = schedule.t_min if sigma == 0 else schedule.time(sigma / alpha)
    return [*points, Point(time, alpha, sigma)]


class Trajectory:
    """Cubic Hermite interpolation of states and slopes; the last interval has no end slope."""

    def __init__(self, taus: Sequence[float], states: list[Tensor], slopes: list[Tensor]) -> None:
        self._taus, self._states, self._slopes = np.array(taus), states, slopes
        self._direction = np.sign(self._taus[-1] - self._taus[0])

    def __call__(self, tau: float) -> Tensor:
        """Return the state at ``tau``."""
        taus = self._taus * self._direction
        i = int(np.searchsorted(taus, tau * self._direction, side="right")) - 1
        i = min(max(i, 0), len(taus) - 2)
        h = float(self._taus[i + 1] - self._taus[i])
        s = float(np.clip((tau - self._taus[i]) / h, 0.0, 1.0))
        left, right, slope = self._states[i], self._states[i + 1], self._slopes[i]
        if i + 1 == len(self._slopes):
            return left + s * h * slope + s * s * (right - left - h * slope)
        return (
            (1 + 2 * s) * (1 - s) ** 2 * left
            + s * (1 - s) ** 2 * h * slope
            + s * s * (3 - 2 * s) * right
            + s * s * (s - 1) * h * self._slopes[i + 1]
        )
