"""What a run does beside its updates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .trackers import Tracker


@dataclass(frozen=True)
class Step:
    """A step that was made.

    Args:
        number: which, from 1.
        loss: before the update.
        grad_norm: length of the gradient, before it was clipped.
        learning_rate: what the update was made with.
        seconds: how long it took.
        tracker: logs numbers and pictures.
    """

    number: int
    loss: float
    grad_norm: float
    learning_rate: float
    seconds: float
    tracker: Tracker


class Callback:
    """Is told what happens; override what is of interest.

    In every process, since what draws with a sharded network needs all of them. What writes has to
    ask `is_main_process`; trackers log in that one alone, and `on_save` is called there alone.
    """

    def on_start(self, steps: int, tracker: Tracker) -> None:
        """The loop begins, after a number of steps that were made before."""

    def on_step(self, step: Step) -> None:
        """A step was made."""

    def on_save(self, folder: Path) -> None:
        """A checkpoint is written: files put into the folder now become part of it."""
