"""The exact gradient of the discrete sampler, with the activations of one network call.

The forward pass stores the network's inputs, which are latents, and no graph. The reverse sweep
applies the transposed table, and for each call runs the network once more at its stored input and
takes one vector-Jacobian product. The result is the gradient of the very numbers that were
computed, for every plan; no ODE is solved backwards and nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ..execution import transpose
from .memory import SavedBytes, parse_bytes
from .method import FiniteCheck, GradientMethod, Run
from .recompute import Totals
from .sweep import Sweep, attach


@dataclass(frozen=True)
class Exact(GradientMethod):
    """Exact, with N stored latents and one call's activations.

    Args:
        memory_budget: bytes (a number, or text such as ``"4GiB"``) that may be spent on keeping
            the graphs of the last calls, which then need not be run again. None keeps none.
    """

    memory_budget: int | str | None = None

    def __post_init__(self) -> None:
        if self.memory_budget is not None:
            parse_bytes(self.memory_budget)

    def sample(self, run: Run) -> Tensor:
        """Return the sample, with this method as its one autograd node."""
        return attach(ExactSweep(run, self.memory_budget))


class ExactSweep(Sweep):
    """The forward pass that stores inputs and the transposed sweep that uses them."""

    def __init__(self, run: Run, memory_budget: int | str | None) -> None:
        super().__init__(run)
        self._budget = None if memory_budget is None else parse_bytes(memory_budget)
        self._first_kept = run.plan.num_calls
        self._inputs: dict[int, Tensor] = {}
        self._graphs: dict[int, tuple[Tensor, Tensor]] = {}
        self._totals = Totals([])
        self._check = FiniteCheck("", ())

    def call(self, k: int, x: Tensor) -> Tensor:
        """Run call k; store its input, and its graph where the budget allows."""
        self._inputs[k] = x
        if k == 0:
            leaf, output = self._measured_first_call(x)
        elif k < self._first_kept:
            return self.network.run(k, x)
        else:
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                output = self.network.run(k, leaf)
        if k >= self._first_kept:
            self._graphs[k] = leaf, output
        return output.detach()

    def _measured_first_call(self, x: Tensor) -> tuple[Tensor, Tensor]:
        saved = SavedBytes([*self.network.targets, *self.run.denoiser.buffers()])
        with nullcontext() if self._budget is None else saved.counting():
            leaf, output = self.first_call(x)
        if self._budget is not None:
            kept = self._budget // max(saved.total, 1)
            self._first_kept = max(self.run.plan.num_calls - kept, 0)
        return leaf, output

    def pull_back(self, k: int, adjoint: Tensor, *, input_needed: bool) -> Tensor | None:
        """Run call k again, or take its kept graph, and pull the adjoint of its output back."""
        if k in self._graphs:
            leaf, output = self._graphs.pop(k)
        else:
            with torch.enable_grad():
                leaf = self._inputs[k].detach().requires_grad_()
                output = self.network.rerun(k, leaf)
        pulled, gradients = self.network.pull_back(leaf, output, adjoint, input_needed=input_needed)
        self._totals.add(gradients)
        if pulled is not None:
            self._check.record(k, pulled)
        return pulled

    def transpose(
        self, adjoint: Tensor, noise_needed: bool
    ) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        """Carry the sample's adjoint back to the noise and the draws."""
        return transpose(
            self.run.plan.program,
            adjoint,
            lambda k, a: self.pull_back(k, a, input_needed=k > 0 or noise_needed),
        )

    def backward(
        self, adjoint: Tensor, noise_needed: bool, draws_needed: bool
    ) -> tuple[Tensor | None, Tensor | None, Sequence[Tensor | None]]:
        """Run the transposed program with one vector-Jacobian product a call."""
        run = self.run
        self._totals = Totals(self.network.targets)
        self._check = FiniteCheck("the adjoint at the input", run.plan.timesteps, run.check_finite)
        noise, drawn = self.transpose(adjoint, noise_needed or draws_needed)
        self._check.raise_if_not_finite()
        draws = None
        if draws_needed:
            draws = torch.stack([torch.zeros_like(adjoint) if d is None else d for d in drawn])
        if noise_needed and noise is None:
            noise = torch.zeros_like(adjoint)
        totals, self._totals = self._totals, Totals([])
        return noise if noise_needed else None, draws, totals.values
