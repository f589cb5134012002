"""What the classifiers read in a picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..objectives import ImageClassifier


@dataclass(frozen=True)
class Reading:
    """What one picture is taken for.

    Args:
        target: the class that is asked about.
        classifier: the probability of it to the classifier that is optimised against.
        judge: the probability of it to the classifier that is not.
        judge_label: what the judge would call the picture.
    """

    target: str
    classifier: float
    judge: float
    judge_label: str

    @property
    def recognised(self) -> bool:
        """Whether the judge calls the picture by the target's name."""
        return self.judge_label == self.target


@torch.no_grad()
def read_pictures(
    images: Tensor, target: str, classifier: ImageClassifier, judge: ImageClassifier
) -> list[Reading]:
    """Return what two classifiers read in pictures, as 8-bit files would hold them.

    Args:
        images: (batch, 3, height, width) in [0, 1].
        target: the class to ask about.
        classifier: the one that is optimised against.
        judge: the one that is not.
    """
    images = images.mul(255).round().div(255)
    first, second = classifier(images).softmax(-1).cpu(), judge(images).softmax(-1).cpu()
    return [
        Reading(
            target=target,
            classifier=float(first[i, classifier.index(target)]),
            judge=float(second[i, judge.index(target)]),
            judge_label=judge.labels[int(second[i].argmax())],
        )
        for i in range(len(images))
    ]
