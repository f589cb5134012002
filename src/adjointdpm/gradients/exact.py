"""The exact gradient of the discrete sampler, with the activations of one network call.

The forward pass stores the network's inputs, which are latents, and no graph. The reverse sweep
applies the transposed table, and for each call runs the network once more at its stored input and
takes one vector-Jacobian product. The result is the gradient of the very numbers that were
computed, for every plan; no ODE is solved backwards and nothing is approximated.

Where latents are large themselves (video), the inputs can be kept in host memory, or only a few
states be kept and the others computed again from them (`gradients/sweep/checkpoints.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..memory import Kept, SavedBytes, in_place, on_host, parse_bytes
from ..plan import Draws, Program, State, TableGradient, advance, begin, transpose
from ..recompute import is_transformed
from .method import FiniteCheck, GradientMethod, Run
from .sweep import (
    Checkpoints,
    Network,
    Sweep,
    attach,
    attach_collecting,
    run_plainly,
    slots_for,
)


@dataclass(frozen=True)
class Exact(GradientMethod):
    """Exact, with N stored latents and one call's activations.

    Args:
        memory_budget: bytes (a number, or text such as ``"4GiB"``) that may be spent on keeping
            the graphs of the last calls, which then need not be run again. None keeps none.
        offload: keep the stored latents in host memory.
        max_latents: store no more latents than this, one input of the network among them (the
            noise is alive anyway and does not count), and run parts of the sampler again to have
            the others. None stores the input of every call. With S latents and states of one latent
            (any one-step method), N calls need `gradients.sweep.checkpoints.repeated_calls` (N, S)
            further ones: 46 for N = 50 and S = 8. What was drawn on the way is drawn again.

    Raises:
        ValueError: a budget that is not understood, or no room for a latent.
    """

    memory_budget: int | str | None = None
    offload: bool = False
    max_latents: int | None = None

    def __post_init__(self) -> None:
        if self.memory_budget is not None:
            parse_bytes(self.memory_budget)
        if self.max_latents is not None and self.max_latents < 1:
            raise ValueError(f"max_latents must be at least 1, not {self.max_latents}")

    def sample(self, run: Run) -> Tensor:
        """Return the sample, with this method as its one autograd node.

        The transforms of ``torch.func`` see ordinary operations: torch offers them no way to run a
        call again, so that the graphs of all calls are kept.
        """
        if is_transformed():
            return run_plainly(run)
        return attach(ExactSweep(run, self))

    def collect(self, run: Run) -> tuple[Tensor, Any]:
        """Return the sample, and what was collected."""
        return attach_collecting(ExactSweep(run, self))

    def on(self, device: torch.device) -> Exact:
        """Return the method without offloading on a CPU, whose memory is the host's."""
        return replace(self, offload=self.offload and device.type != "cpu")

    @property
    def graph_budget(self) -> float:
        """The memory budget in bytes."""
        return 0.0 if self.memory_budget is None else parse_bytes(self.memory_budget)

    @property
    def differentiates_plan(self) -> bool:
        """Yes, with one more latent stored for each call; not where ``max_latents`` forbids it."""
        return self.max_latents is None

    @property
    def needs_plan(self) -> bool:
        """Whether latents are put aside, which the sampler's table tells how to bring back."""
        return self.offload or self.max_latents is not None


class ExactSweep(Sweep):
    """The forward pass that stores inputs and the transposed sweep that uses them."""

    def __init__(self, run: Run, method: Exact | None = None) -> None:
        super().__init__(run)
        method = method if method is not None else Exact()
        budget = method.memory_budget
        self._budget = None if budget is None else parse_bytes(budget)
        self._first_kept = run.plan.num_calls
        self._keep = on_host if method.offload else in_place
        self._inputs: dict[int, Kept] = {}
        self.network.keeps_inputs = not method.offload and method.max_latents is None
        self._checkpoints = None
        if method.max_latents is not None:
            self._checkpoints = self._make_checkpoints(method.max_latents)
        self._graphs: dict[int, tuple[Tensor, list[Tensor]]] = {}
        self._check = FiniteCheck("", ())
        self._table: TableGradient | None = None
        if run.plan.variables.table is not None:
            table, num_calls = run.plan.variables.table, run.plan.num_calls
            self._table = TableGradient(table.detach(), num_calls, run.noise.detach())
            run.draws.record()

    def _make_checkpoints(self, max_latents: int) -> Checkpoints:
        run = self.run
        program = run.plan.program
        run.draws.record()
        return Checkpoints(
            begin=partial(begin, program, run.noise, run.draws),
            advance=_advancing(self.network, program, run.draws),
            slots=slots_for(program, max_latents),
            keep=self._keep,
        )

    def visit(self, state: State) -> None:
        """Store what the reverse sweep will need to have the input of this call."""
        if self._checkpoints is None:
            self._inputs[state.k] = self._keep(state.x)
        else:
            self._checkpoints.visit(state, self._first_kept)

    def _input(self, k: int) -> Tensor:
        return self._inputs[k]() if self._checkpoints is None else self._checkpoints.input(k)

    def call(self, k: int, x: Tensor) -> Tensor:
        """Run call k; keep its graph where the budget allows."""
        output = self._run_call(k, x)
        if self._table is not None:
            self._table.record(k, output)
        return output

    def _run_call(self, k: int, x: Tensor) -> Tensor:
        if k == 0:
            leaf, outputs = self._measured_first_call(x)
        elif k < self._first_kept:
            return self.network.run(k, x)
        else:
            leaf, outputs = self.network.run_with_graph(k, x, alone=k == self._first_kept)
        if k >= self._first_kept:
            self._graphs[k] = leaf, outputs
        return outputs[0].detach()

    def _measured_first_call(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        saved = SavedBytes(self.network.constants)
        with nullcontext() if self._budget is None else saved.counting():
            leaf, outputs = self.network.run_with_graph(0, x)
        if self._budget is not None:
            kept = self._budget // max(saved.total, 1)
            self._first_kept = max(self.run.plan.num_calls - kept, 0)
        return leaf, outputs

    def pull_back(self, k: int, adjoint: Tensor | None, *, input_needed: bool) -> Tensor | None:
        """Run call k again, or take its kept graph, and pull the adjoint of its output back.

        Those of what was collected of the call are pulled back with it.
        """
        adjoints = [adjoint, *self.collected_of(k)]
        if all(a is None for a in adjoints):
            return None
        if k in self._graphs:
            leaf, outputs = self._graphs.pop(k)
        else:
            leaf, outputs = self.network.rerun_with_graph(k, self._input(k))
        pulled = self.network.pull_back(leaf, outputs, adjoints, input_needed=input_needed)
        if pulled is not None:
            self._check.record(k, pulled)
        return pulled

    def transpose(
        self, adjoint: Tensor, noise_needed: bool
    ) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        """Carry the sample's adjoint back to the noise and the draws."""
        plan, table, collects = self.run.plan, self._table, self.collector is not None
        draws = [] if table is None else [self.run.draws(j) for j in range(plan.num_draws)]
        if table is not None:
            table.add(plan.num_calls, adjoint, draws)

        def pull_back(k: int, output_adjoint: Tensor | None) -> Tensor | None:
            needed = k > 0 or noise_needed or table is not None
            pulled = self.tell(k, self.pull_back(k, output_adjoint, input_needed=needed))
            if table is not None and pulled is not None:
                table.add(k, pulled, draws)
            return pulled

        return transpose(plan.program, adjoint, pull_back, every_call=collects)

    def table_gradient(self) -> Tensor | None:
        """Return the products of adjoints with outputs that the sweep has met."""
        return None if self._table is None else self._table.take()

    def backward(
        self, adjoint: Tensor, noise_needed: bool, draws_needed: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Run the transposed program with one vector-Jacobian product a call."""
        run = self.run
        self._check = FiniteCheck("the adjoint at the input", run.plan.timesteps, run.check_finite)
        noise, drawn = self.transpose(adjoint, noise_needed or draws_needed)
        self.network.judge_later(self._check)
        draws = None
        if draws_needed:
            draws = torch.stack([torch.zeros_like(adjoint) if d is None else d for d in drawn])
        if noise_needed and noise is None:
            noise = torch.zeros_like(adjoint)
        return noise if noise_needed else None, draws


def _advancing(network: Network, program: Program, draws: Draws) -> Callable[[State], State]:
    """Return what runs call k again and goes on to the next; it does not know the sweep."""
    return lambda state: advance(program, state, network.rerun(state.k, state.x), draws)
