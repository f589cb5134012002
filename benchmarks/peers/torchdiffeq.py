"""torchdiffeq: backpropagation through its solvers, and its continuous adjoint."""

from __future__ import annotations

from bisect import bisect_left

import torch
import torchdiffeq
from problems import Problem
from torch import Tensor, nn

METHODS = {"euler": "euler", "heun": "heun2"}


class Drift(nn.Module):
    """dy/dr as torchdiffeq calls it, at the points of the grid, where Euler and Heun are."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem
        self.ascending = problem.ratios[::-1]

    def forward(self, r: Tensor, y: Tensor) -> Tensor:
        # r comes in the precision of y, so that it is near a point of the grid, not on it.
        value, ratios = float(r.detach()), self.ascending
        i = min(max(bisect_left(ratios, value), 1), len(ratios) - 1)
        i -= value - ratios[i - 1] < ratios[i] - value
        return self.problem.drift(y, self.problem.points[-1 - i])


def sample(problem: Problem, *, adjoint: bool, stored_states: str = "ends") -> Tensor:
    """Sample with torchdiffeq.

    Args:
        problem: what is sampled.
        adjoint: whether to use `odeint_adjoint`.
        stored_states: ``ends`` asks torchdiffeq for the solution at the end only, so that the
            adjoint solves the states backwards; ``grid`` asks for it at every point, so that the
            adjoint restarts from the true state at each.
    """
    ratios = torch.tensor(problem.ratios, dtype=torch.float64, device=problem.noise.device)
    method, drift = METHODS[problem.solver], Drift(problem)
    times, options = ratios, {}
    if stored_states == "ends":
        times, options = ratios[[0, -1]], {"grid_constructor": lambda f, y, t: _grid(ratios, t)}
    if adjoint:
        parameters = tuple(problem.targets[1:])
        y = torchdiffeq.odeint_adjoint(
            drift, problem.start, times, method=method, options=options, adjoint_params=parameters
        )
    else:
        y = torchdiffeq.odeint(drift, problem.start, times, method=method, options=options)
    return problem.points[-1].alpha * y[-1]


def _grid(ratios: Tensor, ends: Tensor) -> Tensor:
    """Return the grid in the direction and with the sign in which torchdiffeq asks for it."""
    grid = ratios * ends[0].sign()
    return grid if grid[0] == ends[0] else grid.flip(0)
