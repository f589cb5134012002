"""Running a program forward, and its transpose backward."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .recurrence import Program, Row, Value

Call = Callable[[int, Tensor], Tensor]
"""``(k, input) -> output`` of network call k."""
Pullback = Callable[[int, Any], Tensor | None]
"""``(k, adjoint of output k) -> adjoint of input k``, or None where nobody needs it."""


@dataclass(frozen=True)
class State:
    """All that an execution holds when it comes to a network call.

    Args:
        k: the call; the number of calls at the end.
        x: its input; the sample at the end.
        held: earlier values that later rows read.
    """

    k: int
    x: Tensor
    held: dict[Value, Tensor]


def _combine(row: Row, held: Mapping[Value, Tensor]) -> Tensor:
    (value, weight), *rest = row
    total = held[value] * weight
    for value, weight in rest:
        total = torch.add(total, held[value], alpha=weight)
    return total


def begin(program: Program, noise: Tensor, draws: Callable[[int], Tensor]) -> State:
    """Return the state at the first network call."""
    return _at_row(program, 0, {Value("noise"): noise}, draws)


def advance(
    program: Program, state: State, output: Tensor, draws: Callable[[int], Tensor]
) -> State:
    """Return the state at the next network call, from the output of this one."""
    held = dict(state.held)
    for value, tensor in ((Value("input", state.k), state.x), (Value("output", state.k), output)):
        if value in program.last_use:
            held[value] = tensor
    return _at_row(program, state.k + 1, held, draws)


def _at_row(
    program: Program, k: int, held: dict[Value, Tensor], draws: Callable[[int], Tensor]
) -> State:
    """Compute row k, and let go of what no later row reads."""
    for value, _ in program.rows[k]:
        if value.kind == "draw" and value not in held:
            held[value] = draws(value.number)
    x = _combine(program.rows[k], held)
    for value in program.retired[k]:
        del held[value]
    return State(k, x, held)


def execute(
    program: Program,
    call: Call,
    noise: Tensor,
    draws: Callable[[int], Tensor],
    visit: Callable[[State], None] | None = None,
) -> Tensor:
    """Run a program and return its sample; what no later row reads is let go at once.

    Args:
        program: the recurrence of a plan.
        call: the network.
        noise: standard-normal latent.
        draws: returns the noise of an index.
        visit: is shown the state at each network call before the call.
    """
    state = begin(program, noise, draws)
    while state.k < program.num_calls:
        if visit is not None:
            visit(state)
        state = advance(program, state, call(state.k, state.x), draws)
    return state.x


def execute_dense(
    table: Tensor,
    num_calls: int,
    call: Call,
    noise: Tensor,
    draws: Callable[[int], Tensor],
) -> Tensor:
    """Run a plan straight from its table, whose entries are part of the autograd graph.

    Args:
        table: (num_calls + 1, 1 + num_calls + num_draws) coefficients.
        num_calls: how many times the network is called.
        call: the network.
        noise: standard-normal latent.
        draws: returns the noise of an index.
    """
    rows = table.to(noise.device, noise.dtype)
    outputs: list[Tensor] = []
    drawn = [draws(j) for j in range(table.shape[1] - 1 - num_calls)]
    for k in range(num_calls):
        outputs.append(call(k, _dense_row(rows[k], noise, outputs, drawn)))
    return _dense_row(rows[-1], noise, outputs, drawn)


def _dense_row(
    row: Tensor, noise: Tensor, outputs: Sequence[Tensor], drawn: Sequence[Tensor]
) -> Tensor:
    first_draw = len(row) - len(drawn)
    total = row[0] * noise
    for column, value in (*enumerate(outputs, 1), *enumerate(drawn, first_draw)):
        total = total + row[column] * value
    return total


class TableGradient:
    """The gradient of the coefficients: products of adjoints of rows with values of columns.

    Args:
        table: the coefficients.
        num_calls: how many times the network is called.
        noise: standard-normal latent.
    """

    def __init__(self, table: Tensor, num_calls: int, noise: Tensor) -> None:
        self._table, self._num_calls, self._noise = table, num_calls, noise
        self._outputs = noise.new_empty(num_calls, *noise.shape)
        self._rows: dict[int, Tensor] = {}

    def record(self, k: int, output: Tensor) -> None:
        """Keep the output of call k."""
        self._outputs[k].copy_(output)

    def add(self, k: int, adjoint: Tensor, draws: Sequence[Tensor]) -> None:
        """Take the adjoint of row k: of the input of call k, or of the sample."""
        row = adjoint.new_zeros(self._table.shape[1])
        for column, value in ((0, self._noise), *enumerate(draws, 1 + self._num_calls)):
            row[column] = (adjoint * value).sum()
        row[1 : 1 + k] = self._outputs[:k].flatten(1) @ adjoint.flatten()
        self._rows[k] = row

    def take(self) -> Tensor:
        """Return the gradient, like the table, and forget it."""
        nothing = self._noise.new_zeros(self._table.shape[1])
        rows = [self._rows.get(k, nothing) for k in range(self._num_calls + 1)]
        self._rows = {}
        return torch.stack(rows).to(self._table)


class Transposed:
    """A program's transpose on its way from the sample to the noise: the adjoints found so far.

    Args:
        program: the recurrence of a plan.
        adjoint: gradient of the objective with respect to the sample.
    """

    def __init__(self, program: Program, adjoint: Tensor) -> None:
        self._program = program
        self._adjoints: dict[Value, Tensor] = {}
        self._scatter(program.rows[-1], adjoint)

    def copy(self) -> Transposed:
        """Return the same state, to go on from twice."""
        twin = copy.copy(self)
        twin._adjoints = dict(self._adjoints)
        return twin

    def output(self, k: int) -> Tensor | None:
        """Return the adjoint of the output of call k, when all later calls are passed."""
        return self._adjoints.get(Value("output", k))

    def pass_call(self, k: int, pulled: Tensor | None, *, end: bool = False) -> None:
        """Go on past call k.

        Args:
            k: the call.
            pulled: the network's product with the adjoint of the output; None for nothing.
            end: whether the input of the call is a constant.
        """
        total = self._adjoints.pop(Value("input", k), None)
        self._adjoints.pop(Value("output", k), None)
        if pulled is not None:
            total = pulled if total is None else total + pulled
        if total is not None and not end:
            self._scatter(self._program.rows[k], total)

    @property
    def noise(self) -> Tensor | None:
        """The adjoint of the noise; None where nothing reads it."""
        return self._adjoints.get(Value("noise"))

    @property
    def draws(self) -> list[Tensor | None]:
        """The adjoint of each draw; None for what nothing reads."""
        return [self._adjoints.get(Value("draw", j)) for j in range(self._program.num_draws)]

    def _scatter(self, row: Row, adjoint: Tensor) -> None:
        for value, weight in row:
            known = self._adjoints.get(value)
            if known is None:
                self._adjoints[value] = adjoint * weight
            else:
                self._adjoints[value] = torch.add(known, adjoint, alpha=weight)


def transpose(
    program: Program,
    adjoint: Tensor,
    pull_back: Pullback,
    constant_before: int = 0,
    *,
    every_call: bool = False,
) -> tuple[Tensor | None, Sequence[Tensor | None]]:
    """Run the transpose of a program: from the sample's adjoint to those of noise and draws.

    Args:
        program: the recurrence of a plan.
        adjoint: gradient of the objective with respect to the sample.
        pull_back: the network's vector-Jacobian product.
        constant_before: the input of this call, and all that was there before it, is taken for a
            constant; 0 for nothing.
        every_call: whether ``pull_back`` is asked with None too, where nothing reads an output.

    Returns:
        The adjoints of the noise and of each draw; None for what nothing reads.
    """
    state = Transposed(program, adjoint)
    for k in reversed(range(constant_before, program.num_calls)):
        output = state.output(k)
        pulled = pull_back(k, output) if every_call or output is not None else None
        state.pass_call(k, pulled, end=0 < k == constant_before)
    return state.noise if constant_before == 0 else None, state.draws


def pulled_calls(program: Program, constant_before: int = 0) -> list[int]:
    """Return the network calls that a reverse sweep differentiates, in its order."""
    calls: list[int] = []

    def pull_back(k: int, adjoint: Tensor) -> Tensor:
        calls.append(k)
        return adjoint

    transpose(program, torch.zeros(()), pull_back, constant_before)
    return calls
