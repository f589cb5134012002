"""What became of a word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...certificate import Certificate
from ...evaluation import Reading, SuccessRate, success_rate
from ...runs import History, RunResult
from .config import EmbedConfig


@dataclass(frozen=True)
class Validation:
    """Pictures of one prompt from noises that no update has seen.

    Args:
        template: the prompt, with ``{}`` for the word.
        before: (pictures, 3, height, width) in [0, 1], before the first update.
        after: the same noises after the last.
        metric_before: what the objective says of each.
        metric_after: likewise.
        readings_before: what the classifiers read, where a class of theirs is the goal.
        readings_after: likewise.
    """

    template: str
    before: Tensor
    after: Tensor
    metric_before: list[float]
    metric_after: list[float]
    readings_before: list[Reading]
    readings_after: list[Reading]


@dataclass(frozen=True)
class EmbedResult(RunResult):
    """What became of a word.

    Args:
        config: the settings.
        file: the word.
        objective: what was optimised, in words.
        larger_is_better: the direction of it.
        templates: the prompts of the updates.
        validations: what it was judged on, one for each validation template.
        certificate: how right the gradient is, where it was measured.
        history: losses and timings.
    """

    config: EmbedConfig
    file: Path
    objective: str
    larger_is_better: bool
    templates: list[str]
    validations: list[Validation]
    certificate: Certificate | None
    history: History

    def recognised(self, when: str) -> SuccessRate | None:
        """Return how often the judge saw the goal ``before`` or ``after``; None without a judge."""
        readings = [r for v in self.validations for r in getattr(v, f"readings_{when}")]
        return success_rate(reading.recognised for reading in readings) if readings else None
