"""Plain autograd through the whole sampler: exact, with the activations of every call kept."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .method import GradientMethod, Run
from .sweep import run_plainly


@dataclass(frozen=True)
class Backprop(GradientMethod):
    """The reference: exact, differentiable any number of times, memory grows with the steps."""

    def sample(self, run: Run) -> Tensor:
        """Return the sample with the full autograd graph behind it."""
        return run_plainly(run)
