"""The bridge between a hand-written reverse sweep and autograd."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...plan import State, execute, execute_dense
from ...recompute import announced, is_transformed
from ..collect import Collector
from ..method import FiniteArrival, FiniteCheck, FiniteGradients, Run
from .network import Caller, Network


class Sweep(ABC):
    """One sampling run and its reverse: ``forward`` once, ``backward`` as often as autograd asks.

    Args:
        run: what is run.
        timesteps: of the network calls; by default those of the plan.
        tolerance: see `Network`.
    """

    def __init__(
        self,
        run: Run,
        timesteps: Sequence[float] | None = None,
        *,
        tolerance: float | None = None,
    ) -> None:
        self.run = run
        times = run.plan.variables.timesteps if timesteps is None else None
        timesteps = run.plan.timesteps.tolist() if timesteps is None else timesteps
        self.collector = None if run.collect is None else Collector.of(run, attached=False)
        """Takes what is made of the network calls beside their outputs."""
        self.network = Network(
            run.denoiser, timesteps, run.cond, run.adjoint_scale, tolerance, self.collector, times
        )
        self.collected: Sequence[Tensor | None] = ()
        """Within ``backward``, the adjoints of what was collected, (num_calls, ...)."""

    @property
    def inputs(self) -> list[Tensor | None]:
        """What autograd is to see as inputs: noise, draws, table, conditioning, weights."""
        run, network = self.run, self.network
        table = run.plan.variables.table
        return [run.noise, run.draws.given, table, *network.cond, *network.parameters]

    def visit(self, state: State) -> None:  # noqa: B027
        """Take note of the state at a network call, before the call."""

    @abstractmethod
    def call(self, k: int, x: Tensor) -> Tensor:
        """Run network call k and remember what ``backward`` will need."""

    def collected_of(self, k: int) -> list[Tensor | None]:
        """Return the adjoints of what was collected of call k."""
        return [None if adjoint is None else adjoint[k] for adjoint in self.collected]

    def forward(self) -> Tensor:
        """Return the sample; called with grad mode off."""
        return run_checked(self.run, self.call, self.visit)

    def tell(self, k: int, product: Tensor | None) -> Tensor | None:
        """Tell the observer of the product of call k, and return it."""
        if product is not None and self.run.observer is not None:
            self.run.observer.on_product(k, product)
        return product

    @abstractmethod
    def backward(
        self, adjoint: Tensor, noise_needed: bool, draws_needed: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of noise and draws; the network adds up the others."""

    def table_gradient(self) -> Tensor | None:
        """Return, after ``backward``, the gradient of the plan's coefficients if they are asked."""
        return None

    def gradients(self) -> Sequence[Tensor | None]:
        """Return, after ``backward``, the gradients of conditioning and weights."""
        return self.network.gradients()


def run_checked(
    run: Run,
    call: Callable[[int, Tensor], Tensor],
    visit: Callable[[State], None] | None = None,
) -> Tensor:
    """Return the sample of a run, whose outputs are looked at for what is not finite."""
    # Under torch.func no value can be looked at.
    check_finite = run.check_finite and not is_transformed()
    check = FiniteCheck("the output", run.plan.timesteps, check_finite)

    def checked(k: int, x: Tensor) -> Tensor:
        output = call(k, x)
        check.record(k, output)
        return output

    plan, table = run.plan, run.plan.variables.table
    if table is not None and torch.is_grad_enabled():
        sample = execute_dense(table, plan.num_calls, checked, run.noise, run.draws)
    else:
        sample = execute(plan.program, checked, run.noise, run.draws, visit)
    check.raise_if_not_finite()
    return sample


def run_plainly(run: Run, collector: Collector | None = None) -> Tensor:
    """Return the sample of a run by ordinary operations, with a graph where autograd records."""
    times, caller = run.plan.times, Caller(run.denoiser, collector)
    alone = not torch.is_grad_enabled()

    def call(k: int, x: Tensor) -> Tensor:
        output, *collected = caller(k, x, times[k], run.cond, alone=alone)
        if collector is not None:
            collector.keep(k, collected)
        return output

    return run_checked(run, call)


class _Attached(torch.autograd.Function):
    """A sweep as one node of the autograd graph."""

    @staticmethod
    def forward(ctx: Any, sweep: Sweep, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        ctx.sweep = sweep
        # Saved for their version counters: autograd then refuses weights changed in between.
        ctx.save_for_backward(*inputs)
        sample = sweep.forward()
        sweep.network.finish()
        stacks = [] if sweep.collector is None else sweep.collector.stacks
        ctx.sample_like = sample.new_empty(()).expand_as(sample)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(x for x in stacks if not _is_differentiable(x)))
        return sample, *stacks

    @staticmethod
    def backward(
        ctx: Any, adjoint: Tensor | None, *collected: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        sweep: Sweep = ctx.sweep
        if torch.is_grad_enabled():
            method = type(sweep).__name__.removesuffix("Sweep")
            raise RuntimeError(
                f"{method} gives first derivatives only (create_graph=True was asked for). Use "
                "Sampler(..., gradient=Backprop()) for second derivatives"
            )
        _ = ctx.saved_tensors
        _, noise_needed, draws_needed, *_ = ctx.needs_input_grad
        network = sweep.network
        if adjoint is None:
            adjoint = torch.zeros_like(ctx.sample_like)
        sweep.collected = collected
        with network.reversing():
            if sweep.run.check_finite:
                network.judge_later(FiniteArrival((adjoint, *collected)))
            noise, draws = sweep.backward(adjoint, noise_needed, draws_needed)
            others = sweep.gradients()
            if sweep.run.check_finite:
                network.judge_later(FiniteGradients(others, network.target_name))
        network.check_received(others)
        return (None, noise, draws, sweep.table_gradient(), *others)


def attach(sweep: Sweep) -> Tensor:
    """Run a sweep and return its sample as a node of the autograd graph, where one is recorded."""
    if not torch.is_grad_enabled():
        return run_plainly(sweep.run)
    (sample,) = _Attached.apply(sweep, *sweep.inputs)
    return announced(sweep.network.wrappers, sample)


def attach_collecting(sweep: Sweep) -> tuple[Tensor, Any]:
    """Run a sweep and return its sample and what was collected, as nodes of the same graph."""
    collector = sweep.collector
    assert collector is not None
    if not torch.is_grad_enabled():
        return run_plainly(sweep.run, collector), collector.nest(collector.stacks)
    outputs = _Attached.apply(sweep, *sweep.inputs)
    sample, *stacks = announced(sweep.network.wrappers, outputs)
    return sample, collector.nest(stacks)


def _is_differentiable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
