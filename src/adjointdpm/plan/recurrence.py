"""A sampler as a short program: every row a linear combination of a few recent values.

The dense table of a sampler writes each network input with all earlier outputs. Almost all samplers
have a recurrence of fixed length behind that table (DDIM: one earlier input and one output), and
executing the recurrence holds that many latents alone. `compress` finds it; `expand` undoes it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

MAX_WINDOW = 16
"""Long enough for the Runge-Kutta start of PNDM; linear multistep methods need 2 to 5."""
TOLERANCE = 1e-11


class Value(NamedTuple):
    """A latent: the ``noise``, the input or output of a network call, or a ``draw`` of noise."""

    kind: Literal["noise", "input", "output", "draw"]
    number: int = 0


class Term(NamedTuple):
    """One summand of a row."""

    value: Value
    weight: float


Row = tuple[Term, ...]
NOTHING: Row = (Term(Value("noise"), 0.0),)
"""The row of a value that is zero, whatever the others are."""


@dataclass(frozen=True)
class Program:
    """The inputs of all network calls in order, then the sample, each a sum of earlier values.

    Args:
        rows: one row for each network input and a last one for the sample.
        num_draws: how many noises are drawn on the way.
    """

    rows: tuple[Row, ...]
    num_draws: int = 0

    @property
    def num_calls(self) -> int:
        """How many times the network is called."""
        return len(self.rows) - 1

    @cached_property
    def last_use(self) -> dict[Value, int]:
        """The last row that reads each value: after it the value can be forgotten."""
        return {term.value: k for k, row in enumerate(self.rows) for term in row}

    @cached_property
    def retired(self) -> tuple[tuple[Value, ...], ...]:
        """For every row, the values that no later row reads."""
        retired: list[list[Value]] = [[] for _ in self.rows]
        for value, k in self.last_use.items():
            retired[k].append(value)
        return tuple(tuple(values) for values in retired)

    @cached_property
    def num_live(self) -> int:
        """How many latents an execution holds at most (the network's own inputs stored aside)."""
        births: Counter[int] = Counter()
        for value, last in self.last_use.items():
            born = {"noise": 0, "input": value.number, "output": value.number + 1, "draw": last}
            births[born[value.kind]] += 1
            births[last + 1] -= 1
        return int(np.cumsum([births[k] for k in range(len(self.rows) + 1)]).max())

    @cached_property
    def state_size(self) -> int:
        """How many latents besides the noise a state between two network calls consists of."""
        births: dict[Value, int] = {}
        for k, row in enumerate(self.rows):
            for value, _ in row:
                there = {"input": value.number, "output": value.number + 1}
                births.setdefault(value, there.get(value.kind, k))
        sizes = [1] * self.num_calls
        for value, born in births.items():
            for k in range(born, self.last_use[value]):
                # The input of call k is the latent that is counted already.
                sizes[k] += value.kind != "noise" and value != ("input", k)
        return max(sizes)

    def expand(self) -> np.ndarray:
        """Return the dense table, (num_calls + 1, 1 + num_calls + num_draws), in float64."""
        table = np.zeros((len(self.rows), 1 + self.num_calls + self.num_draws))
        for k, row in enumerate(self.rows):
            for (kind, number), weight in row:
                if kind == "input":
                    table[k] += weight * table[number]
                else:
                    offset = {"noise": 0, "output": 1, "draw": 1 + self.num_calls}[kind]
                    table[k, offset + number] += weight
        return table


def _direct_terms(coefficients: np.ndarray, num_calls: int) -> Row:
    """Return the terms of a row that reads the columns of the table themselves."""

    def value(column: int) -> Value:
        if column == 0:
            return Value("noise")
        if column <= num_calls:
            return Value("output", column - 1)
        return Value("draw", column - 1 - num_calls)

    columns = np.flatnonzero(coefficients).tolist()
    return tuple(Term(value(column), float(coefficients[column])) for column in columns)


def _dense_row(table: np.ndarray, k: int) -> Row:
    return _direct_terms(table[k], len(table) - 1) or NOTHING


def _least_squares(rows: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the weights of the rows whose sum is nearest to the target."""
    if len(rows) == 1:  # nearly always, and a hundred times faster than a decomposition
        size = float(rows[0] @ rows[0])
        return np.array([float(rows[0] @ target) / size if size else 0.0])
    return np.linalg.lstsq(rows.T, target, rcond=1e-10)[0]


def _windowed_row(
    table: np.ndarray, k: int, first: int, recalled: range, births: np.ndarray
) -> Row | None:
    """Write row k with the ``recalled`` inputs and all that was born after input ``first``."""
    num_calls = len(table) - 1
    target, inputs = table[k], table[recalled.start : recalled.stop]
    old = births <= first
    scale = np.abs(target).max()
    weights = _least_squares(inputs[:, old], target[old])
    if np.abs(weights @ inputs[:, old] - target[old]).max(initial=0.0) > TOLERANCE * scale:
        return None
    direct = np.where(old, 0.0, target - weights @ inputs)
    direct[np.abs(direct) < 1e-15 * scale] = 0.0
    terms = (Term(Value("input", i), float(w)) for i, w in zip(recalled, weights, strict=True) if w)
    return (*terms, *_direct_terms(direct, num_calls))


def _shortest_row(table: np.ndarray, k: int, births: np.ndarray) -> Row | None:
    """Return row k in the shortest window that holds it, with one recalled input if one will do."""
    for first in range(k - 1, max(k - MAX_WINDOW, 0) - 1, -1):
        for recalled in (range(k - 1, k), range(first, first + 1), range(first, k)):
            row = _windowed_row(table, k, first, recalled, births)
            if row is not None:
                return row
    return None


def compress(table: np.ndarray, num_calls: int) -> Program:
    """Find the recurrence behind a dense table.

    For each row the shortest window of recent calls is sought in which the row is a combination of
    the window's inputs, outputs and draws; a table with no recurrence stays as it is.

    Args:
        table: (num_calls + 1, 1 + num_calls + num_draws), rows the network inputs and the sample,
            columns the noise, the outputs and the draws.
        num_calls: number of network calls.

    Returns:
        A program whose `Program.expand` is the table to rounding.
    """
    num_draws = table.shape[1] - 1 - num_calls
    # The first input that sees a column; an output is there from the call after it.
    births = np.where((table != 0).any(axis=0), (table != 0).argmax(axis=0), len(table))
    births[1 : 1 + num_calls] = np.arange(1, num_calls + 1)
    rows = [_dense_row(table, 0)]
    for k in range(1, num_calls + 1):
        row = _shortest_row(table, k, births)
        rows.append(_dense_row(table, k) if row is None else row or NOTHING)
    program = Program(tuple(rows), num_draws)
    error = np.abs(program.expand() - table).max() / np.abs(table).max()
    if error < 1e-9:
        return program
    return Program(tuple(_dense_row(table, k) for k in range(len(table))), num_draws)
