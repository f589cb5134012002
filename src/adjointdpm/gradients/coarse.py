"""A cheaper gradient: the transpose of a coarse plan, along the trajectory that was recorded.

The sampler takes N steps. A plan with M of its steps is built on the same process, and its
transpose carries the adjoint back, with the network's Jacobians at the inputs of the fine run. So
the states are as good as the sampler's, and only the product of its N Jacobians is approximated by
one of M. With M = N and the sampler's own solver it is the exact gradient.

Both the solver and the grid of the coarse plan matter, and the defaults are what a study on the
embedded model found best (docs/gradients.md): with M = N / 4 the transpose of a second-order solver
has about a third of the error of DDIM's, and blocks that shorten towards the image, where the
Jacobian changes fastest, have about half that of equal ones. The Jacobian of a block is the one at
its noisy end, where it is smallest: with that from the middle, of second order for short blocks,
DDIM's transpose is unstable for long ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..execution import transpose
from ..plan import Plan
from ..process import Schedule
from ..solvers import SOLVERS, build_on
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
        density: how the N steps are divided into blocks: block i starts at the step
            ``N (1 - (1 - i/M)^density)``, rounded. 1 gives blocks of equal numbers of steps; above
            1 they are longer at the noise and shorter at the image.

    Raises:
        ValueError: no steps, an unknown solver, or a density below 1.
    """

    num_steps: int
    solver: str = "unipc_bh2_2"
    density: float = 1.5

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, not {self.num_steps}")
        if self.solver not in SOLVERS:
            raise ValueError(
                f"solver {self.solver!r} is not known; use one of {', '.join(SOLVERS)}"
            )
        if not self.density >= 1:
            raise ValueError(f"density must be at least 1, not {self.density}")

    def plan(self, plan: Plan, schedule: Schedule) -> Plan:
        """Return the coarse plan whose transpose takes the place of a plan's.

        Args:
            plan: of the sampler.
            schedule: the denoiser's.
        """
        points = solution_points(plan, schedule)
        chosen = [points[i] for i in coarse_steps(len(points) - 1, self.num_steps, self.density)]
        assert plan.prediction_type is not None, "solution_points refuses such a plan"
        coarse = build_on(self.solver, schedule, [*chosen, points[-1]], plan.prediction_type)
        if coarse.num_draws or coarse.num_calls != len(chosen):
            raise ValueError(
                f"CoarseAdjoint needs a solver with one network call a step and no noise; "
                f"{self.solver} is not one. Use unipc_bh2_2, dpmpp_2m, deis3 or ddim"
            )
        return coarse

    def sample(self, run: Run) -> Tensor:
        """Return the sample, with this method as its one autograd node."""
        return attach(CoarseAdjointSweep(run, self))


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


class CoarseAdjointSweep(ExactSweep):
    """The forward run, and the transposed sweep of another plan than the one that ran."""

    def __init__(self, run: Run, method: CoarseAdjoint) -> None:
        super().__init__(run)
        starts = run.plan.step_starts or ()
        chosen = coarse_steps(len(starts), method.num_steps, method.density)
        self._calls = [starts[i] for i in chosen]
        self._coarse = method.plan(run.plan, run.denoiser.schedule)

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
