"""What a classifier says of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..features import Preprocessing
from ..formats import refuse_pickled_weights
from .objective import Objective


class ImageClassifier(nn.Module):
    """An image classifier of transformers that takes pictures in [0, 1], differentiably.

    Args:
        model: a model whose output has ``.logits`` and whose config has ``id2label``.
        preprocessing: how pictures become the model's input.
    """

    model: Any

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ImageClassifier:
        """Load a folder written by ``save_pretrained``, in float32, frozen, in evaluation mode.

        Raises:
            ValueError: the weights are pickled; only safetensors files are read.
        """
        from transformers import AutoModelForImageClassification  # slow to import

        refuse_pickled_weights(folder)
        model = AutoModelForImageClassification.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        return cls(model.eval().requires_grad_(False), Preprocessing.from_pretrained(folder))

    @property
    def labels(self) -> list[str]:
        """The names of the classes, by index."""
        names = self.model.config.id2label
        return [names[i] for i in sorted(names)]

    def index(self, target: str | int) -> int:
        """Return the index of a class given by its name or index.

        Raises:
            ValueError: there is no such class; the message names similar ones.
        """
        return find_label(self.labels, target)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (batch, classes), of pictures (batch, 3, height, width) in [0, 1]."""
        return self.model(self.preprocessing(images)).logits


def find_label(labels: Sequence[str], target: str | int) -> int:
    """Return the index of a class given by its name or index.

    Args:
        labels: the names of the classes, by index.
        target: the class.

    Raises:
        ValueError: there is no such class; the message names similar ones.
    """
    if isinstance(target, int):
        if not 0 <= target < len(labels):
            raise ValueError(f"class {target} does not exist: there are {len(labels)} classes")
        return target
    if target not in labels:
        similar = get_close_matches(target, labels, n=5, cutoff=0.5) or labels[:10]
        raise ValueError(
            f"the classifier has no class {target!r}; did you mean {', '.join(similar)}? "
            f"(it has {len(labels)} classes in all)"
        )
    return labels.index(target)


class _ClassifierObjective(Objective):
    """What both metrics of a class share.

    Args:
        classifier: the classifier.
        target: the class, by its name or index; or one for each picture of the batch.
    """

    larger_is_better = True
    _indices: Tensor

    def __init__(self, classifier: ImageClassifier, target: str | int | list[str | int]) -> None:
        super().__init__()
        self.classifier = classifier
        targets = target if isinstance(target, list) else [target]
        indices = torch.tensor([classifier.index(name) for name in targets])
        self.register_buffer("_indices", indices, persistent=False)

    def _targets(self, logits: Tensor) -> Tensor:
        if len(self._indices) not in (1, len(logits)):
            raise ValueError(
                f"{len(self._indices)} targets for {len(logits)} pictures: give one for all, or "
                "one each"
            )
        return self._indices.to(logits.device).expand(len(logits))[:, None]


class ClassifierLogProbability(_ClassifierObjective):
    """The log-probability that a classifier gives to a class: larger is better.

    Args:
        classifier: the classifier.
        target: the class, by its name or index; or one for each picture of the batch.
    """

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the log-probabilities, (batch,), of pictures (batch, 3, height, width) in [0, 1].

        Raises:
            ValueError: there are several targets, but not one for each picture.
        """
        logs = self.classifier(images).log_softmax(dim=-1)
        return logs.gather(1, self._targets(logs))[:, 0]


class ClassifierMargin(_ClassifierObjective):
    """The logit of a class minus the largest of the others: larger is better.

    It is positive exactly where the classifier calls the picture by the target's name. Other than a
    log-probability it does not saturate for a class that is far behind or won already. With a cap,
    pictures that have won by so much have no gradient any more, and the others get it all (the
    confidence of Carlini and Wagner, arXiv 1608.04644).

    Args:
        classifier: the classifier.
        target: the class, by its name or index; or one for each picture of the batch.
        cap: the margin that is enough, in logits; None for no cap.
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        target: str | int | list[str | int],
        cap: float | None = None,
    ) -> None:
        super().__init__(classifier, target)
        self.cap = cap

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the margins, (batch,), of pictures (batch, 3, height, width) in [0, 1].

        Raises:
            ValueError: there are several targets, but not one for each picture; or one class only.
        """
        logits = self.classifier(images)
        if logits.shape[1] < 2:
            raise ValueError("a margin needs a classifier of at least two classes")
        targets = self._targets(logits)
        others = logits.scatter(1, targets, -torch.inf).amax(1)
        margins = logits.gather(1, targets)[:, 0] - others
        return margins if self.cap is None else margins.clamp(max=self.cap)
