"""A cheaper gradient: few vector-Jacobian products, along the trajectory that was recorded.

The sampler takes N steps, and M products are taken, with the network's Jacobians at inputs of the
fine run. So the states are as good as the sampler's, and only what happens between M of the
Jacobians is approximated. There are two ways:

- The sampler's own transpose, with the other products interpolated (`interpolated`). Its error goes
  to zero as M goes to N, for every sampler that calls the network once a step.
- The transpose of a coarse plan with M steps on the same process, by a solver of choice. The
  Jacobian of a block of steps is the one at its noisy end, where it is smallest: with that from the
  middle, of second order for short blocks, DDIM's transpose is unstable for long ones.

The defaults are what a study on the embedded model found best (docs/gradients.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..per_step import refuse_gradient_by_step
from ..plan import Plan, transpose
from ..schedule import Schedule
from ..solvers import SOLVERS, build_on
from .accuracy import InaccurateGradientWarning
from .interpolated import (
    InterpolatedSweep,
    SparseSweep,
    ends_clean,
    irregular_calls,
)
from .method import GradientMethod, Run
from .sweep import attach, solution_points

SOLVER = "unipc_bh2_2"
"""Whose transpose is taken for samplers with several network calls a step."""

FEWEST_NODES = 2
"""Products to interpolate between that must be left for the last step to have one for itself.

With two the rest is a line. That is rough, but the estimate of the error sees how rough; a line
into the last step is worse and looks smooth."""


@dataclass(frozen=True)
class CoarseAdjoint(GradientMethod):
    """Few vector-Jacobian products along the recorded fine trajectory.

    Args:
        num_steps: M, the number of vector-Jacobian products.
        solver: None for the sampler's own transpose with the other products interpolated, and
            for that of ``unipc_bh2_2`` where the sampler calls the network several times a step; or
            the solver whose transpose is taken, any that calls the network once a step.
        density: how the steps are divided into blocks: of N steps, block i of M starts at
            ``N (1 - (1 - i/M)^density)``, rounded. 1 gives blocks of equal numbers of steps; above
            1 they are longer at the noise and shorter at the image.

    Raises:
        ValueError: no steps, an unknown solver, or a density below 1.
    """

    num_steps: int
    solver: str | None = None
    density: float = 1.5

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, not {self.num_steps}")
        if self.solver is not None and self.solver not in SOLVERS:
            raise ValueError(
                f"solver {self.solver!r} is not known; use one of {', '.join(SOLVERS)}"
            )
        if not self.density >= 1:
            raise ValueError(f"density must be at least 1, not {self.density}")

    def swept_plan(self, plan: Plan, schedule: Schedule) -> Plan:
        """Return the plan whose transpose is taken: the sampler's own, or a coarse one."""
        interpolates = self._calls_alone(plan, schedule) is not None
        return plan if interpolates else self._coarse_plan(plan, schedule)

    def _calls_alone(self, plan: Plan, schedule: Schedule) -> list[int] | None:
        """Return the calls to leave out of the interpolation; None where there is none."""
        if self.solver is not None:
            return None
        alone = irregular_calls(plan, schedule)
        few = len(alone) <= self.num_steps // 2 or plan.num_calls <= self.num_steps
        if not few:
            return None
        last, left = plan.num_calls - 1, self.num_steps - len(alone) - 1
        if left >= FEWEST_NODES and last not in alone and ends_clean(plan, schedule):
            alone = [*alone, last]
        return alone

    def _coarse_plan(self, plan: Plan, schedule: Schedule) -> Plan:
        points = solution_points(plan, schedule)
        chosen = [points[i] for i in coarse_steps(len(points) - 1, self.num_steps, self.density)]
        assert plan.prediction_type is not None, "solution_points refuses such a plan"
        solver = self.solver or SOLVER
        coarse = build_on(solver, schedule, [*chosen, points[-1]], plan.prediction_type)
        if coarse.num_draws or coarse.num_calls != len(chosen):
            raise ValueError(
                f"CoarseAdjoint needs a solver with one network call a step and no noise; "
                f"{solver} is not one. Use unipc_bh2_2, dpmpp_2m, deis3 or ddim"
            )
        return coarse

    def sample(self, run: Run) -> Tensor:
        """Return the sample, with this method as its one autograd node."""
        refuse_gradient_by_step(run.cond, "CoarseAdjoint")
        plan, schedule = run.plan, run.denoiser.schedule
        alone = self._calls_alone(plan, schedule)
        if alone is None:
            if self.solver is None and run.check_finite:
                warnings.warn(
                    f"CoarseAdjoint took the transpose of {SOLVER} on fewer steps, since too few "
                    f"calls of {plan.name} are a step of their own. How far the gradient is off is "
                    "not estimated: compare it with adp.certify(), or take Exact()",
                    InaccurateGradientWarning,
                    stacklevel=2,
                )
            return attach(CoarsePlanSweep(run, self._coarse_plan(plan, schedule), self))
        others = [k for k in range(plan.num_calls) if k not in alone]
        chosen = nodes(len(others), self.num_steps - len(alone), self.density)
        return attach(InterpolatedSweep(run, [others[i] for i in chosen], alone))


def coarse_steps(num_steps: int, num_coarse: int, density: float = 1.0) -> list[int]:
    """Return where blocks of steps start.

    >>> coarse_steps(7, 3)
    [0, 2, 5]
    >>> coarse_steps(50, 12, density=1.5)
    [0, 6, 12, 18, 23, 28, 32, 37, 40, 44, 47, 49]
    """
    count = min(num_steps, num_coarse)
    ideal = num_steps * (1 - np.linspace(1, 0, count + 1) ** density)
    starts, following = [], num_steps
    for start in ideal[count - 1 :: -1].round().astype(int).tolist():
        following = min(start, following - 1)
        starts.append(following)
    return starts[::-1]


def nodes(num_calls: int, count: int, density: float) -> list[int]:
    """Return the calls between which products are interpolated, the first and last among them.

    >>> nodes(50, 12, density=1.5)
    [0, 7, 13, 19, 24, 29, 34, 38, 42, 45, 48, 49]
    """
    last = num_calls - 1
    before = coarse_steps(last, count - 1, density) if last > 0 and count > 1 else []
    return [*before, last][:num_calls]


class CoarsePlanSweep(SparseSweep):
    """The forward run, and the transposed sweep of another plan than the one that ran."""

    def __init__(self, run: Run, coarse: Plan, method: CoarseAdjoint) -> None:
        starts = run.plan.step_starts or ()
        chosen = coarse_steps(len(starts), method.num_steps, method.density)
        self._at = [starts[i] for i in chosen]
        super().__init__(run, self._at)
        self._coarse = coarse

    def transpose(
        self, adjoint: Tensor, noise_needed: bool
    ) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        """Carry the adjoint back through the coarse plan, scaled as the fine one scales noise."""

        def pull_back(i: int, adjoint: Tensor) -> Tensor | None:
            needed = i > 0 or noise_needed
            return self.tell(i, self.pull_back(self._at[i], adjoint, input_needed=needed))

        noise, draws = transpose(self._coarse.program, adjoint, pull_back)
        if noise is not None:
            noise = noise * (self.run.plan.table[0, 0] / self._coarse.table[0, 0])
        return noise, draws
