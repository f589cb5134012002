"""The paper's method: the adjoint ODE, solved backwards in exponential-integration coordinates.

In a form of the sampling ODE with no linear term, ``du/dtau = g(u, tau, c)``, the adjoint
``a = dL/du`` obeys ``da/dtau = -a^T dg/du`` and the gradients of conditioning and weights are
``-a^T dg/dc`` integrated along it (AdjointDPM, arXiv 2307.10711, eq. 11-13). That is the gradient
of the ODE, not of the sampler's discrete steps: the two agree as steps grow small, at the order of
the solver. `Exact` costs the same and has no such error; this class is the method of the paper and
a measure of how far a discretised sampler is from its ODE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..execution import Draws, execute
from ..plan import Plan
from ..solvers import CALLS_PER_STEP, ODE_SOLVERS, Form
from ..solvers.tape import Tape
from .method import FiniteCheck, GradientMethod, Run
from .recompute import Totals
from .sweep import Sweep, attach
from .trajectory import Trajectory, solution_points


@dataclass(frozen=True)
class ContinuousAdjoint(GradientMethod):
    """The augmented ODE of the paper, in memory that does not grow with the reverse steps.

    Args:
        solver: the ODE method of the reverse sweep, one of ``adjointdpm.solvers.ODE_SOLVERS``.
        num_steps: reverse steps; by default the sampler's own grid.
        trajectory: ``recorded`` interpolates the states of the forward run (cubic Hermite);
            ``resolved`` stores none and solves the state backwards from the sample, as the paper
            does, with the error that this brings.

    Raises:
        ValueError: an unknown word or no steps.
    """

    solver: str = "heun"
    num_steps: int | None = None
    trajectory: Literal["recorded", "resolved"] = "recorded"

    def __post_init__(self) -> None:
        if self.solver not in ODE_SOLVERS:
            raise ValueError(
                f"solver {self.solver!r} is not known; use one of {', '.join(ODE_SOLVERS)}"
            )
        if self.num_steps is not None and self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, not {self.num_steps}")
        if self.trajectory not in ("recorded", "resolved"):
            raise ValueError(f"trajectory must be recorded or resolved, not {self.trajectory!r}")

    def sample(self, run: Run) -> Tensor:
        """Return the sample, with this method as its one autograd node."""
        return attach(ContinuousAdjointSweep(run, self))


class ContinuousAdjointSweep(Sweep):
    """The forward run, and the adjoint ODE along its trajectory."""

    def __init__(self, run: Run, method: ContinuousAdjoint) -> None:
        super().__init__(run)
        self._method = method
        self._points = solution_points(run.plan, run.denoiser.schedule)
        self._form = Form.finite(self._points[0], self._points[-1])
        self._taus = [self._form.tau(point) for point in self._points]
        self._recorded: dict[int, tuple[Tensor, Tensor]] = {}
        self._sample: Tensor | None = None

    def call(self, k: int, x: Tensor) -> Tensor:
        """Run call k; store its input and output where it is a point of the trajectory."""
        output = self.first_call(x)[1].detach() if k == 0 else self.network.run(k, x)
        if self._method.trajectory == "recorded" and k in (self.run.plan.step_starts or ()):
            self._recorded[k] = x, output
        return output

    def forward(self) -> Tensor:
        """Return the sample and keep it: the reverse sweep starts there."""
        self._sample = super().forward()
        return self._sample

    def backward(
        self, adjoint: Tensor, noise_needed: bool, draws_needed: bool
    ) -> tuple[Tensor | None, Tensor | None, Sequence[Tensor | None]]:
        """Solve the adjoint ODE from the sample to the noise."""
        form, start, end = self._form, self._points[0], self._points[-1]
        assert self._sample is not None
        plan = self._reverse_plan()
        totals = Totals(self.network.targets)
        check = FiniteCheck("the adjoint", plan.timesteps, self.run.check_finite)
        trajectory = self._trajectory() if self._method.trajectory == "recorded" else None

        def slope(k: int, state: Tensor) -> Tensor:
            tau = float(plan.timesteps[k])
            point = form.point(self.run.denoiser.schedule, tau)
            u, a = state if trajectory is None else (trajectory(tau), state[0])
            scale = form.scale(point)
            x_weight, output_weight = form.drift(self.run.denoiser.prediction_type, point)
            with torch.enable_grad():
                x = (scale * u).detach().requires_grad_()
                output = self.network.rerun(0, x, point.t)
            pulled, gradients = self.network.pull_back(
                x, output, output_weight * a, input_needed=True
            )
            assert pulled is not None
            totals.add(gradients, weight=-float(plan.sample[1 + k]))
            adjoint_slope = -scale * (x_weight * a + pulled)
            check.record(k, adjoint_slope)
            if trajectory is not None:
                return adjoint_slope[None]
            return torch.stack(
                [x_weight * x.detach() + output_weight * output.detach(), adjoint_slope]
            )

        a = adjoint * form.scale(end)
        u = self._sample.detach() / form.scale(end)
        state = torch.stack([u, a]) if trajectory is None else a[None]
        a = execute(plan.program, slope, state, Draws(state))[-1]
        check.raise_if_not_finite()
        noise = a * (self.run.plan.table[0, 0] / form.scale(start))
        return noise if noise_needed else None, None, totals.values

    def _reverse_plan(self) -> Plan:
        """Return the plan of the adjoint ODE, from the sample's end to the noise's."""
        taus = np.array(self._taus)[::-1]
        open_start = self._points[-1].sigma == 0
        if self._method.num_steps is not None:
            # As dense as the sampler's own grid is, whatever the number of steps.
            index = np.arange(len(taus))
            first = 1.0 if open_start and self._method.num_steps > 1 else 0.0
            at = np.linspace(first, len(taus) - 1, self._method.num_steps + (first == 0.0))
            taus = np.interp(np.concatenate([[0.0], at[at > 0]]), index, taus)
        grid = taus.tolist()
        tape = Tape(CALLS_PER_STEP * len(grid))
        a = tape.noise
        if open_start:
            # No network is asked at the clean image: the first step is that of Euler's transpose.
            a = a + (grid[1] - grid[0]) * tape.call(a, grid[1])
            grid = grid[1:]
        a = ODE_SOLVERS[self._method.solver](tape.call, grid, a)
        return tape.plan(a, name=f"adjoint {self._method.solver}")

    def _trajectory(self) -> Trajectory:
        """Return the recorded trajectory as a function of tau."""
        form, prediction_type = self._form, self.run.denoiser.prediction_type
        assert self._sample is not None
        states, slopes = [], []
        for point, (x, output) in zip(self._points, self._recorded.values(), strict=False):
            x_weight, output_weight = form.drift(prediction_type, point)
            states.append(x / form.scale(point))
            slopes.append(x_weight * x + output_weight * output)
        states.append(self._sample.detach() / form.scale(self._points[-1]))
        return Trajectory(self._taus, states, slopes)
