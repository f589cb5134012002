"""A sampling loop as one writes it, with all activations kept or with `torch.utils.checkpoint`."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from problems import NOISE_FORM, Problem, plainly
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpointed(denoiser: nn.Module, x: Tensor, t: float, **cond: Any) -> Tensor:
    return checkpoint(denoiser, x, t, use_reentrant=False, **cond)


def sample(problem: Problem, *, checkpoints: bool) -> Tensor:
    call = checkpointed if checkpoints else plainly
    y = problem.start
    for start, end in pairwise(problem.points):
        h = NOISE_FORM.tau(end) - NOISE_FORM.tau(start)
        slope = problem.drift(y, start, call)
        if problem.solver == "heun":
            slope = (slope + problem.drift(y + h * slope, end, call)) / 2
        y = y + h * slope
    return problem.points[-1].alpha * y
