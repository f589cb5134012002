"""Who takes part: our gradient methods and their peers, as one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from peers import by_hand
from problems import Problem
from torch import Tensor

import adjointdpm as adp

Gradient = Callable[[], list[Any]]
"""Samples, and returns the gradients of all targets."""
Sampling = Callable[[Problem], Tensor]


@dataclass(frozen=True)
class Method:
    """One contestant.

    Args:
        name: in tables.
        prepare: makes its gradient, ready to be run and measured.
        rival: for a peer, the method of ours that it is measured against; empty for ours.
        why: where a peer may be better, the reason, by ``error``, ``time`` or ``memory``, or by
            ``time on mixture`` and the like for one problem only.
        needs: the library it is made of.
        problems: what it can do.
        reference: the plan whose gradient it claims to be, if not that of the problem.
        keeps_graphs: whether its memory is that of all network calls.
        calls: the row of bare network calls that its time is divided by.
    """

    name: str
    prepare: Callable[[Problem], Gradient]
    rival: str = ""
    why: Mapping[str, str] = field(default_factory=dict)
    needs: str = "torch"
    problems: tuple[str, ...] = ("embedded", "inputs", "mixture")
    reference: Callable[[Problem], adp.Plan] = lambda problem: problem.plan
    keeps_graphs: bool = False
    calls: str = "network calls"

    @property
    def available(self) -> bool:
        return find_spec(self.needs) is not None


def _torch(sample: Sampling) -> Callable[[Problem], Gradient]:
    return lambda problem: lambda: problem.gradients(sample(problem))


def _ours(method: Callable[[Problem], adp.GradientMethod]) -> Callable[[Problem], Gradient]:
    def sample(problem: Problem) -> Tensor:
        sampler = adp.Sampler(problem.denoiser, problem.plan, method(problem))
        return sampler(problem.noise, **problem.cond)

    return _torch(sample)


def _torchdiffeq(**settings: Any) -> Callable[[Problem], Gradient]:
    def sample(problem: Problem) -> Tensor:
        from peers import torchdiffeq

        return torchdiffeq.sample(problem, **settings)

    return _torch(sample)


def _torchode(adjoint: str) -> Callable[[Problem], Gradient]:
    def sample(problem: Problem) -> Tensor:
        from peers import torchode

        return torchode.sample(problem, adjoint=adjoint)

    return _torch(sample)


def _diffrax(adjoint: str) -> Callable[[Problem], Gradient]:
    def prepare(problem: Problem) -> Gradient:
        from peers import diffrax

        return diffrax.gradients(problem, adjoint=adjoint)

    return prepare


def _quarter(problem: Problem) -> int:
    return max(problem.plan.num_calls // 4, 1)


def network_calls(problem: Problem) -> Gradient:
    """Return what an exact gradient is made of: N calls, and N calls with their gradients."""

    def run() -> list[Any]:
        times = problem.plan.timesteps.tolist()
        for t in times:
            with torch.no_grad():
                problem.denoiser(problem.noise, t, **problem.cond)
        gradients: list[Any] = []
        for t in times:
            gradients = problem.gradients(problem.denoiser(problem.noise, t, **problem.cond))
        return gradients

    return run


def one_call(problem: Problem) -> Gradient:
    """Return one network call and its gradients."""
    t = float(problem.plan.timesteps[0])
    return lambda: problem.gradients(problem.denoiser(problem.noise, t, **problem.cond))


def jax_network_calls(problem: Problem) -> Gradient:
    from peers import diffrax

    return diffrax.network_calls(problem)


CALLS: dict[str, Callable[[Problem], Gradient]] = {
    "network calls": network_calls,
    "network calls in JAX": jax_network_calls,
}

ONE_CALL = {**CALLS, "network calls": one_call}
"""The same for memory: calls that follow one another need no more than one."""

SUMS = (
    "Exact keeps the input and the output of a call beside its graph, and up to a quarter of the "
    "weight gradients of a call while it adds them to their sums."
)
BOOKKEEPING = (
    "What surrounds a call (random state, autocast, checks) is recorded and restored for about 0.2 "
    "ms a call, which shows where a call itself takes no more than one."
)
ADDING = (
    "Weight gradients are added to their sums by hooks in Python, for autograd's own sums are not "
    "ours to read; without weight gradients the two take the same time."
)
NO_STATES = (
    "It stores no states and solves them backwards, where Exact stores N latents. They count next "
    "to the activations of the mixture, and of the embedded model at 1000 calls. It is not exact."
)
SEARCHED = (
    "Exact runs the first call with its graph, and searches that for tensors that could get no "
    "gradient: one or two per cent of 20 calls."
)
COMPILED = "All is one compiled program, in which bookkeeping costs nothing."
FUSED = (
    "XLA fuses the elementwise operations of a call, whose peak alone is below that of PyTorch "
    "(see the rows of network calls), and it stores few states."
)

EXACT, ALL_GRAPHS = "Exact", "Exact, all graphs kept"
PAPER = "ContinuousAdjoint, as in the paper"
"""The same ODE, solver and steps as the continuous adjoints of the peers."""

OURS = (
    Method(EXACT, _ours(lambda p: adp.Exact())),
    Method(ALL_GRAPHS, _ours(lambda p: adp.Exact(memory_budget="1000GiB")), keeps_graphs=True),
    Method(
        "Exact, sqrt(N) latents",
        _ours(lambda p: adp.Exact(max_latents=math.isqrt(p.plan.num_calls))),
    ),
    Method("Backprop", _ours(lambda p: adp.Backprop()), keeps_graphs=True),
    Method("Symplectic", _ours(lambda p: adp.Symplectic())),
    Method(
        "Reversible",
        _ours(lambda p: adp.Reversible()),
        reference=lambda p: adp.Reversible().reference_plan(p.plan, p.denoiser.schedule),
    ),
    Method("ContinuousAdjoint, recorded", _ours(lambda p: adp.ContinuousAdjoint())),
    Method(
        "ContinuousAdjoint, resolved",
        _ours(lambda p: adp.ContinuousAdjoint(p.solver, trajectory="resolved")),
    ),
    Method(
        PAPER,
        _ours(lambda p: adp.ContinuousAdjoint(p.solver, trajectory="resolved", form="noise")),
    ),
    Method(
        "CoarseAdjoint, N/4",
        _ours(lambda p: adp.CoarseAdjoint(_quarter(p))),
    ),
    Method("Truncated, N/4", _ours(lambda p: adp.Truncated(_quarter(p)))),
)

PEERS = (
    Method(
        "by hand",
        _torch(lambda p: by_hand.sample(p, checkpoints=False)),
        rival=ALL_GRAPHS,
        why={"memory": SUMS, "time on mixture": BOOKKEEPING, "time on embedded": ADDING},
        keeps_graphs=True,
    ),
    Method(
        "by hand, torch checkpoint",
        _torch(lambda p: by_hand.sample(p, checkpoints=True)),
        rival=EXACT,
        why={"memory": SUMS, "time on mixture": BOOKKEEPING},
    ),
    Method(
        "torchdiffeq odeint",
        _torchdiffeq(adjoint=False),
        rival=ALL_GRAPHS,
        why={"memory": SUMS, "time on mixture": BOOKKEEPING, "time on embedded": ADDING},
        needs="torchdiffeq",
        keeps_graphs=True,
    ),
    Method(
        "torchdiffeq odeint_adjoint",
        _torchdiffeq(adjoint=True),
        rival=EXACT,
        why={"memory": NO_STATES, "time on mixture": BOOKKEEPING, "time on inputs": SEARCHED},
        needs="torchdiffeq",
    ),
    Method(
        "torchdiffeq odeint_adjoint, states at the grid",
        _torchdiffeq(adjoint=True, stored_states="grid"),
        rival=EXACT,
        why={"time on mixture": BOOKKEEPING, "time on inputs": SEARCHED},
        needs="torchdiffeq",
    ),
    *(
        Method(
            f"torchode {name}",
            _torchode(adjoint),
            rival=ALL_GRAPHS if adjoint == "autodiff" else EXACT,
            why={
                "memory": SUMS if adjoint == "autodiff" else NO_STATES,
                "time on mixture": BOOKKEEPING,
            },
            needs="torchode",
            problems=("mixture",),
            keeps_graphs=adjoint == "autodiff",
        )
        for name, adjoint in (
            ("AutoDiffAdjoint", "autodiff"),
            ("BacksolveAdjoint", "backsolve"),
            ("JointBacksolveAdjoint", "joint_backsolve"),
        )
    ),
    *(
        Method(
            f"diffrax {name}",
            _diffrax(adjoint),
            rival=EXACT,
            why={"memory": FUSED, "time": COMPILED},
            needs="diffrax",
            problems=("mixture",),
            calls="network calls in JAX",
        )
        for name, adjoint in (
            ("RecursiveCheckpointAdjoint", "recursive"),
            ("BacksolveAdjoint", "backsolve"),
        )
    ),
)

METHODS = (*OURS, *PEERS)
