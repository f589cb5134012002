"""Plain autograd through the whole sampler: exact, with the activations of every call kept."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..plan import execute
from .method import FiniteCheck, GradientMethod, Run
from .sweep import Caller


@dataclass(frozen=True)
class Backprop(GradientMethod):
    """The reference: exact, differentiable any number of times, memory grows with the steps."""

    def sample(self, run: Run) -> Tensor:
        """Return the sample with the full autograd graph behind it."""
        check = FiniteCheck("the output", run.plan.timesteps, run.check_finite)
        times, caller = run.plan.timesteps.tolist(), Caller(run.denoiser)

        def call(k: int, x: Tensor) -> Tensor:
            output = caller(x, times[k], run.cond, alone=False)
            check.record(k, output)
            return output

        sample = execute(run.plan.program, call, run.noise, run.draws)
        check.raise_if_not_finite()
        return sample
