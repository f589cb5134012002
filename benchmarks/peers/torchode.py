"""torchode on the mixture: autodiff through its loop, and its two continuous adjoints."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torchode
from problems import Problem
from torch import Tensor, nn

STEPS = {"euler": torchode.single_step_methods.Euler, "heun": torchode.Heun}


class Drift(nn.Module):
    """dy/dr of the mixture; r is (batch,), or nothing but a number under torchode's vmap."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.network = problem.denoiser.network

    def forward(self, r: Tensor, y: Tensor) -> Tensor:
        rows = y.reshape(-1, y.shape[-1])
        alpha = (1 + r.reshape(-1) ** 2).rsqrt().expand(len(rows))
        sigma = r.reshape(-1) * alpha
        return self.network.predict(alpha[:, None] * rows, alpha, sigma).reshape(y.shape)


class GridState(NamedTuple):
    step: int
    accept: Tensor


class GridController(torchode.step_size_controllers.StepSizeController):
    """Steps through a given grid: torchode's own fixed steps are all of one length."""

    def __init__(self, grid: Tensor) -> None:
        super().__init__()
        self.steps = grid.diff()

    def init(self, term: Any, problem: Any, order: int, dt0: Any, *, stats: Any, args: Any) -> Any:
        batch = problem.batch_size
        accept = torch.ones(batch, dtype=torch.bool, device=problem.device)
        return self.steps[0].expand(batch), GridState(0, accept), None

    def adapt_step_size(
        self, t0: Tensor, dt: Tensor, y0: Tensor, step_result: Any, state: GridState, stats: Any
    ) -> Any:
        step = min(state.step + 1, len(self.steps) - 1)
        return state.accept, self.steps[step].expand(len(dt)), GridState(step, state.accept), None

    def merge_states(self, running: Tensor, current: GridState, previous: GridState) -> GridState:
        return current


def sample(problem: Problem, *, adjoint: str) -> Tensor:
    """Sample with torchode.

    Args:
        problem: the mixture.
        adjoint: ``autodiff``, ``backsolve`` or ``joint_backsolve``.
    """
    y = problem.start
    grid = torch.tensor(problem.ratios, dtype=y.dtype, device=y.device)
    term = torchode.ODETerm(Drift(problem), with_stats=False)
    step = STEPS[problem.solver](term)
    forward, backward = (
        torchode.AutoDiffAdjoint(step, GridController(g)) for g in (grid, grid.flip(0))
    )
    solver = forward
    if adjoint == "backsolve":
        solver = torchode.BacksolveAdjoint(term, step, GridController(grid))
        solver.backward_adjoint = backward
    elif adjoint == "joint_backsolve":
        solver = torchode.JointBacksolveAdjoint(term, step, GridController(grid))
        solver.backward_loop = backward
    start, end = (ratio.expand(len(y)) for ratio in grid[[0, -1]])
    dt0 = (grid[1] - grid[0]).expand(len(y))
    solution = solver.solve(torchode.InitialValueProblem(y, start, end), term=term, dt0=dt0)
    return problem.points[-1].alpha * solution.ys[:, -1]
