"""The bridge between a hand-written reverse sweep and autograd."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...plan import State, execute
from ..method import FiniteCheck, Run
from .network import Network


class Sweep(ABC):
    """One sampling run and its reverse: ``forward`` once, ``backward`` as often as autograd asks.

    Args:
        run: what is run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        times = run.plan.timesteps.tolist()
        self.network = Network(run.denoiser, times, run.cond, run.adjoint_scale)

    @property
    def inputs(self) -> list[Tensor | None]:
        """What autograd is to see as inputs: noise, draws, conditioning, weights."""
        run = self.run
        return [run.noise, run.draws.given, *self.network.cond, *self.network.parameters]

    def visit(self, state: State) -> None:  # noqa: B027
        """Take note of the state at a network call, before the call."""

    @abstractmethod
    def call(self, k: int, x: Tensor) -> Tensor:
        """Run network call k and remember what ``backward`` will need."""

    def forward(self) -> Tensor:
        """Return the sample; called with grad mode off."""
        run = self.run
        check = FiniteCheck("the output", run.plan.timesteps, run.check_finite)

        def call(k: int, x: Tensor) -> Tensor:
            output = self.call(k, x)
            check.record(k, output)
            return output

        sample = execute(run.plan.program, call, run.noise, run.draws, self.visit)
        check.raise_if_not_finite()
        return sample

    def first_call(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run call 0 with its graph, check where the graph ends, and return the leaf and output."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            output = self.network.run(0, leaf)
            self.network.check_reachable(leaf, output)
        return leaf, output

    def tell(self, k: int, product: Tensor | None) -> Tensor | None:
        """Tell the observer of the product of call k, and return it."""
        if product is not None and self.run.observer is not None:
            self.run.observer.on_product(k, product)
        return product

    @abstractmethod
    def backward(
        self, adjoint: Tensor, noise_needed: bool, draws_needed: bool
    ) -> tuple[Tensor | None, Tensor | None, Sequence[Tensor | None]]:
        """Return the gradients of noise, draws, and of conditioning and weights together."""


class _Attached(torch.autograd.Function):
    """A sweep as one node of the autograd graph."""

    @staticmethod
    def forward(ctx: Any, sweep: Sweep, *inputs: Tensor | None) -> Tensor:
        ctx.sweep = sweep
        # Saved for their version counters: autograd then refuses weights changed in between.
        ctx.save_for_backward(*inputs)
        sample = sweep.forward()
        sweep.network.settings.settle()
        return sample

    @staticmethod
    def backward(ctx: Any, adjoint: Tensor) -> tuple[Tensor | None, ...]:
        sweep: Sweep = ctx.sweep
        if torch.is_grad_enabled():
            method = type(sweep).__name__.removesuffix("Sweep")
            raise RuntimeError(
                f"{method} gives first derivatives only (create_graph=True was asked for). Use "
                "Sampler(..., gradient=Backprop()) for second derivatives"
            )
        _ = ctx.saved_tensors
        _, noise_needed, draws_needed, *_ = ctx.needs_input_grad
        with sweep.network.settings.restored():
            noise, draws, others = sweep.backward(adjoint, noise_needed, draws_needed)
        sweep.network.check_received(others)
        return (None, noise, draws, *others)


def attach(sweep: Sweep) -> Tensor:
    """Run a sweep and return its sample as a node of the autograd graph, where one is recorded."""
    if torch.is_grad_enabled():
        return _Attached.apply(sweep, *sweep.inputs)
    run = sweep.run
    return execute(run.plan.program, sweep.network.run, run.noise, run.draws)
