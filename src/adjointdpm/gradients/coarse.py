"""A cheaper gradient: the transpose of a coarse plan, along the trajectory that was recorded.

The sampler takes N steps. A plan with M of its steps is built on the same process, and its
transpose carries the adjoint back, with the network's Jacobians at the inputs of the fine run. So
the states are as good as the sampler's, and only the product of its N Jacobians is approximated by
one of M. With M = N and the sampler's own solver it is the exact gradient.

A block is stood for by the Jacobian at its noisy end, where it is smallest: the product then stays
bounded for blocks of any length. The Jacobian from the middle, of second order for short blocks, is
not: with blocks of four steps on a Gaussian mixture its relative error is seven times as large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..execution import transpose
from ..plan import Plan
from ..solvers import SOLVERS, build_on
from ..solvers.form import Point
from .exact import ExactSweep
from .method import GradientMethod, Run
from .sweep import attach
from .trajectory import solution_points


@dataclass(frozen=True)
class CoarseAdjoint(GradientMethod):
    """The transposed coarse plan along the recorded fine trajectory.

    Args:
        num_steps: M, the number of coarse steps and of vector-Jacobian products.
        solver: whose transpose; any solver that calls the network once a step.

    Raises:
        ValueError: no steps, or an unknown solver.
    """

    num_steps: int
    solver: str = "ddim"

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, not {self.num_steps}")
        if self.solver not in SOLVERS:
            raise ValueError(
                f"solver {self.solver!r} is not known; use one of {', '.join(SOLVERS)}"
            )

    def sample(self, run: Run) -> Tensor:
        """Return the sample, with this method as its one autograd node."""
        return attach(CoarseAdjointSweep(run, self))


def coarse_steps(num_steps: int, num_coarse: int) -> list[int]:
    """Return where blocks of nearly equal numbers of steps start.

    >>> coarse_steps(7, 3)
    [0, 2, 5]
    """
    return np.unique(np.linspace(0, num_steps, num_coarse + 1).round().astype(int))[:-1].tolist()


class CoarseAdjointSweep(ExactSweep):
    """The forward run, and the transposed sweep of another plan than the one that ran."""

    def __init__(self, run: Run, method: CoarseAdjoint) -> None:
        super().__init__(run)
        points, starts = (
            solution_points(run.plan, run.denoiser.schedule),
            run.plan.step_starts or (),
        )
        chosen = coarse_steps(len(starts), method.num_steps)
        self._calls = [starts[i] for i in chosen]
        self._coarse = _coarse_plan(run, method.solver, [points[i] for i in chosen] + points[-1:])

    def call(self, k: int, x: Tensor) -> Tensor:
        """Run call k; store its input if the coarse plan has it."""
        output = super().call(k, x)
        if k not in self._calls:
            del self._inputs[k]
        return output

    def transpose(
        self, adjoint: Tensor, noise_needed: bool
    ) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        """Carry the adjoint back through the coarse plan, scaled as the fine one scales noise."""
        noise, draws = transpose(
            self._coarse.program,
            adjoint,
            lambda i, a: self.pull_back(self._calls[i], a, input_needed=i > 0 or noise_needed),
        )
        if noise is not None:
            noise = noise * (self.run.plan.table[0, 0] / self._coarse.table[0, 0])
        return noise, draws


def _coarse_plan(run: Run, solver: str, points: list[Point]) -> Plan:
    plan = build_on(solver, run.denoiser.schedule, points, run.denoiser.prediction_type)
    if plan.num_draws or plan.num_calls != len(points) - 1:
        raise ValueError(
            f"CoarseAdjoint needs a solver with one network call a step and no noise; {solver} "
            "is not one. Use ddim, dpmpp_2m, deis2 or euler"
        )
    return plan
