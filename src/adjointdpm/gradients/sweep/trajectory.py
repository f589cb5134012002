"""Where a sampling run passes: the points of the process at its steps, and the states between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...form import FLOW, Point
from ...plan import Plan
from ...schedule import Schedule

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
    points = Point.all_at(schedule, plan.timesteps[list(plan.step_starts or ())])
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
    """The states between those that were recorded, interpolated to the sixth order.

    States and slopes of three neighbouring points of the run determine a polynomial of degree 5
    (Hermite), so that interpolation limits the order of none of our solvers. It is one in the flow
    form of the ODE, whose states and slopes are finite everywhere.

    Args:
        points: (N + 1) of the process, along the run.
        calls: input and output of the network at the first N of them.
        sample: where the run ended; what the slope is there, no call has told.
        prediction_type: what the outputs are.
    """

    def __init__(
        self,
        points: Sequence[Point],
        calls: Sequence[tuple[Tensor, Tensor]],
        sample: Tensor,
        prediction_type: str,
    ) -> None:
        self._taus = np.array([FLOW.tau(point) for point in points])
        self._inputs = [*(x for x, _ in calls), sample]
        self._outputs = [output for _, output in calls]
        self._scales = [FLOW.scale(point) for point in points]
        self._drifts = [FLOW.drift(prediction_type, point) for point in points[:-1]]

    def __call__(self, point: Point) -> Tensor:
        """Return the input of the network at a point between the first and the last."""
        nodes = self._nodes(FLOW.tau(point))
        with_slope = [i for i in nodes if i < len(self._outputs)]
        values, slopes = hermite_weights(self._taus[nodes], self._taus[with_slope], FLOW.tau(point))
        scale = FLOW.scale(point)
        total = torch.zeros_like(self._inputs[0])
        for i, value in zip(nodes, values, strict=True):
            total.add_(self._inputs[i], alpha=scale * value / self._scales[i])
        for i, slope in zip(with_slope, slopes, strict=True):
            a, b = self._drifts[i]
            total.add_(self._inputs[i], alpha=scale * slope * a)
            total.add_(self._outputs[i], alpha=scale * slope * b)
        return total

    def _nodes(self, tau: float) -> list[int]:
        """Return the ends of the interval around ``tau`` and the nearer of its neighbours."""
        i = int(np.searchsorted(-self._taus, -tau, side="right")) - 1
        i = min(max(i, 0), len(self._taus) - 2)
        # The end of the run is no neighbour: it has no slope, and comes of a step of first order.
        outer = [j for j in (i - 1, i + 2) if 0 <= j < len(self._outputs)]
        return sorted([i, i + 1, *sorted(outer, key=lambda j: abs(self._taus[j] - tau))[:1]])


def hermite_weights(
    nodes: np.ndarray, slope_nodes: np.ndarray, at: float
) -> tuple[list[float], list[float]]:
    """Return the weights of values and slopes in the polynomial through them, evaluated at a point.

    Args:
        nodes: where values are given.
        slope_nodes: where slopes are.
        at: where the polynomial is asked for.

    >>> hermite_weights(np.array([0.0, 1.0]), np.array([0.0, 1.0]), 0.5)
    ([0.5, 0.5], [0.125, -0.125])
    """
    start, width = nodes[0], nodes[-1] - nodes[0]
    powers = np.arange(len(nodes) + len(slope_nodes))
    values = ((nodes - start) / width)[:, None] ** powers
    slopes = powers * ((slope_nodes - start) / width)[:, None] ** np.maximum(powers - 1, 0) / width
    target = ((at - start) / width) ** powers
    weights = np.linalg.solve(np.concatenate([values, slopes]).T, target).tolist()
    return weights[: len(nodes)], weights[len(nodes) :]
