"""What a classifier says of a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..features import Preprocessing
from ..formats import load_whole_model
from ..recompute import is_transformed
from .objective import Objective


class ImageClassifier(nn.Module):
    """Any image classifier, differentiably, on pictures in [0, 1].

    Args:
        model: takes what ``preprocessing`` returns, and gives logits (batch, classes) or an object
            with ``.logits``.
        preprocessing: how pictures become the model's input; None if the model takes them as they
            are.
        labels: the names of the classes, by index; by default those of ``model.config.id2label``.

    Raises:
        ValueError: nothing names the classes.

    >>> classifier = ImageClassifier(nn.Flatten(), labels=["red", "green", "blue"])
    >>> picture = torch.tensor([0.1, 0.2, 0.9]).reshape(1, 3, 1, 1)
    >>> classifier.labels[classifier(picture).argmax()]
    'blue'
    """

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """The smallest and the largest value of a pixel, of every classifier."""

    model: Any

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Callable[[Tensor], Tensor] | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._unseen = True
        self.preprocessing = preprocessing
        self._labels = _labels_of(model) if labels is None else list(labels)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ImageClassifier:
        """Load a folder written by ``save_pretrained``, in float32, frozen, in evaluation mode.

        Raises:
            ValueError: the weights are pickled, only safetensors files are read; or some are
                missing.
        """
        from transformers import AutoModelForImageClassification  # slow to import

        model = load_whole_model(AutoModelForImageClassification, folder)
        return cls(model, Preprocessing.from_pretrained(folder))

    @property
    def labels(self) -> list[str]:
        """The names of the classes, by index."""
        return list(self._labels)

    def index(self, target: str | int) -> int:
        """Return the index of a class given by its name or index.

        Raises:
            ValueError: there is no such class; the message names similar ones.
        """
        return find_label(self._labels, target)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (batch, classes), of pictures (batch, 3, height, width) in [0, 1].

        Views of pictures may overshoot a little. On accelerators, where the host would wait for
        the answer, only the first batch is looked at.

        Raises:
            ValueError: pictures in another range, or logits that are not one a label.
        """
        self._check_range(images)
        answer = self.model(images if self.preprocessing is None else self.preprocessing(images))
        logits: Tensor = getattr(answer, "logits", answer)
        if logits.shape != (len(images), len(self._labels)):
            raise ValueError(
                f"the classifier answered {len(images)} pictures with logits of shape "
                f"{tuple(logits.shape)}, but has {len(self._labels)} labels: they must be "
                f"({len(images)}, {len(self._labels)})"
            )
        return logits

    def _check_range(self, images: Tensor) -> None:
        on_host = images.device.type == "cpu"
        if not (on_host or self._unseen) or images.is_meta or torch.compiler.is_compiling():
            return
        if is_transformed() or images.numel() == 0:
            return
        self._unseen = False
        low, high = (float(value) for value in images.detach().aminmax())
        # Half a range outside is more than noise and interpolation do.
        if low < -0.5 or high > 1.5:
            raise ValueError(
                f"pictures must have values in [0, 1], but these have values from {low:.3g} to "
                f"{high:.3g}; pictures in [-1, 1] become (images + 1) / 2, those in [0, 255] "
                "images / 255"
            )


def _labels_of(model: nn.Module) -> list[str]:
    names = getattr(getattr(model, "config", None), "id2label", None)
    if not names:
        raise ValueError(
            f"nothing says what the classes of {type(model).__name__} are called: pass labels, "
            "the names by index"
        )
    return [names[i] for i in sorted(names)]


def find_label(labels: Sequence[str], target: str | int) -> int:
    """Return the index of a class given by its name or index.

    Args:
        labels: the names of the classes, by index.
        target: the class.

    Raises:
        ValueError: there is no such class (the message names similar ones), or several have the
            name, as "crane" in ImageNet.
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
    found = [i for i, label in enumerate(labels) if label == target]
    if len(found) > 1:
        raise ValueError(
            f"{len(found)} classes are called {target!r}: give the index of the one that is meant, "
            + " or ".join(map(str, found))
        )
    return found[0]


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
