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
    """

    def __init__(self, max_calls: int) -> None:
        self._units = np.eye(1 + max_calls)
        self._inputs: list[Row] = []
        self._times: list[float] = []
        self._step_starts: list[int] = []

    @property
    def noise(self) -> Row:
        """The row of the standard-normal latent."""
        return self._units[0]

    def call(self, x: Row, t: float, *, starts_step: bool = True) -> Row:
        """Record a network call with the input ``x`` at time ``t``; return the row of its output.

        Args:
            x: row of the network's input.
            t: the network's time.
            starts_step: whether x approximates the solution, rather than being a stage.
        """
        if starts_step:
            self._step_starts.append(len(self._inputs))
        self._inputs.append(x)
        self._times.append(t)
        return self._units[len(self._inputs)]

    def plan(self, sample: Row, *, name: str, prediction_type: str | None = None) -> Plan:
        """Return the plan whose final sample is the given row."""
        calls = len(self._inputs)
        return Plan(
            timesteps=np.array(self._times),
            table=np.stack([*self._inputs, sample])[:, : 1 + calls],
            prediction_type=prediction_type,
            step_starts=tuple(self._step_starts),
            name=name,
        )
