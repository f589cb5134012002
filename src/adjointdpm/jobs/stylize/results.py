"""What became of a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...certificate import Certificate
from ...cost import Cost
from ...evaluation import Reading, SuccessRate, success_rate
from ...runs import History, RunResult
from .config import StylizeConfig


@dataclass(frozen=True)
class Comparison:
    """A picture of a prompt and a noise that no update has seen, before and after.

    Args:
        prompt: what the model was asked for.
        before: (3, height, width) in [0, 1].
        after: the same noise.
        style_before: what the style objective says.
        style_after: likewise.
        content: how far the second is from the first in content.
        reading_before: what the classifiers read, where the prompt names a class of theirs.
        reading_after: likewise.
    """

    prompt: str
    before: Tensor
    after: Tensor
    style_before: float
    style_after: float
    content: float
    reading_before: Reading | None
    reading_after: Reading | None


@dataclass(frozen=True)
class StylizeResult(RunResult):
    """What became of a model.

    Args:
        config: the settings.
        file: the adapter, or the folder of the first component that was trained.
        style: what the pictures are to be like, in words.
        style_picture: (3, height, width) in [0, 1], if it is one.
        larger_is_better: the direction of the style objective.
        prompts: how many the updates drew from.
        comparisons: what came of it.
        num_weights: how many numbers were optimised.
        predicted: what a gradient would take, before the run.
        certificate: how right the gradient of the style is, where it was measured.
        history: losses and timings.
    """

    config: StylizeConfig
    file: Path
    style: str
    style_picture: Tensor | None
    larger_is_better: bool
    prompts: int
    comparisons: list[Comparison]
    num_weights: int
    predicted: Cost
    certificate: Certificate | None
    history: History

    @property
    def style_before(self) -> float:
        """The mean of the style objective, before."""
        return sum(each.style_before for each in self.comparisons) / len(self.comparisons)

    @property
    def style_after(self) -> float:
        """The mean of the style objective, after."""
        return sum(each.style_after for each in self.comparisons) / len(self.comparisons)

    @property
    def still_recognised(self) -> SuccessRate | None:
        """How many of the pictures that the judge recognised it still does; None without any."""
        kept = [
            each.reading_after.recognised
            for each in self.comparisons
            if each.reading_after and each.reading_before and each.reading_before.recognised
        ]
        return success_rate(kept) if kept else None
