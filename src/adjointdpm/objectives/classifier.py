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


class ClassifierLogProbability(nn.Module):
    """The log-probability that a classifier gives to a class: larger is better.

    Args:
        classifier: the classifier.
        target: the class, by its name or index; or one for each picture of the batch.
    """

    def __init__(self, classifier: ImageClassifier, target: str | int | list[str | int]) -> None:
        super().__init__()
        self.classifier = classifier
        targets = target if isinstance(target, list) else [target]
        self._indices = torch.tensor([classifier.index(name) for name in targets])

    def forward(self, images: Tensor) -> Tensor:
        """Return the log-probabilities, (batch,), of pictures (batch, 3, height, width) in [0, 1].

        Raises:
            ValueError: there are several targets, but not one for each picture.
        """
        if len(self._indices) not in (1, len(images)):
            raise ValueError(
                f"{len(self._indices)} targets for {len(images)} pictures: give one for all, or "
                "one each"
            )
        logs = self.classifier(images).log_softmax(dim=-1)
        indices = self._indices.to(logs.device).expand(len(images))
        return logs.gather(1, indices[:, None])[:, 0]
