"""Writing down a solver: its latents are rows of coefficients, its network calls new columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..plan import Plan

Row = NDArray[np.float64]
"""One latent of a sampler, as its coefficients on (noise, outputs, draws)."""


class Tape:
    """Records a solver that runs on rows of coefficients in place of latents.

    Args:
        max_calls: an upper bound of the number of network calls.
        max_draws: an upper bound of the number of noises drawn on the way.
    """

    def __init__(self, max_calls: int, max_draws: int = 0) -> None:
        self._max_calls, self._max_draws = max_calls, max_draws
        self._inputs: list[Row] = []
        self._times: list[float] = []
        self._step_starts: list[int] = []
        self._num_draws = 0

    def _unit(self, column: int) -> Row:
        row = np.zeros(1 + self._max_calls + self._max_draws)
        row[column] = 1.0
        return row

    @property
    def noise(self) -> Row:
        """The row of the standard-normal latent."""
        return self._unit(0)

    def call(self, x: Row, t: float, *, starts_step: bool = True) -> Row:
        """Record a network call with the input ``x`` at time ``t``; return the row of its output.

        Args:
            x: row of the network's input.
            t: the network's time.
            starts_step: whether x approximates the solution, rather than being a stage.
        """
        if len(self._inputs) == self._max_calls:
            raise IndexError(f"more network calls than the tape has columns for: {self._max_calls}")
        if starts_step:
            self._step_starts.append(len(self._inputs))
        self._inputs.append(x)
        self._times.append(t)
        return self._unit(len(self._inputs))

    def draw(self) -> Row:
        """Return the row of a standard-normal noise drawn on the way; each call gives a new one."""
        if self._num_draws == self._max_draws:
            raise IndexError(f"more draws than the tape has columns for: {self._max_draws}")
        self._num_draws += 1
        return self._unit(self._max_calls + self._num_draws)

    def plan(self, sample: Row, *, name: str, prediction_type: str | None = None) -> Plan:
        """Return the plan whose final sample is the given row."""
        first_draw = 1 + self._max_calls
        columns = [
            *range(1 + len(self._inputs)),
            *range(first_draw, first_draw + self._num_draws),
        ]
        return Plan(
            timesteps=np.array(self._times),
            table=np.stack([*self._inputs, sample])[:, columns],
            num_draws=self._num_draws,
            prediction_type=prediction_type,
            step_starts=tuple(self._step_starts),
            name=name,
        )
