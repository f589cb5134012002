"""To and from the models of foolbox."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..objectives import ImageClassifier
from .noise import NoiseClassifier
from .packages import optional


class FoolboxModule(nn.Module):
    """The logits of foolbox's ``PyTorchModel``, with its own preprocessing, of pictures in [0, 1].

    Args:
        model: the model. It holds its weights where they are, so moving this module moves nothing.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (batch, classes), of (batch, channels, height, width) in [0, 1]."""
        low, high = self.model.bounds
        return self.model(low + (high - low) * images)


def from_foolbox(
    model: Any,
    labels: Sequence[str],
    preprocessing: Callable[[Tensor], Tensor] | None = None,
) -> ImageClassifier:
    """Return a ``PyTorchModel`` of foolbox as a target.

    Its preprocessing stays in front of it, and pictures in [0, 1] are brought to its bounds.

    Args:
        model: a ``foolbox.PyTorchModel`` of pictures, channels first.
        labels: the names of its classes, by index.
        preprocessing: what comes before, such as ``Preprocessing(size=(224, 224))`` for pictures
            of another size; it must leave them in [0, 1].
    """
    return ImageClassifier(FoolboxModule(model), preprocessing, labels)


def to_foolbox(
    model: ImageClassifier | NoiseClassifier, bounds: tuple[float, float] | None = None
) -> Any:
    """Return a target, or a classifier of noises, as foolbox's attacks take it.

    Args:
        model: the classifier, in evaluation mode.
        bounds: the smallest and the largest value of an input; by default the model's own.

    Returns:
        A ``foolbox.PyTorchModel`` on the model's device.

    Raises:
        ImportError: foolbox is not installed.
    """
    foolbox = optional("foolbox", "foolbox")
    device = next(model.parameters(), torch.empty(0)).device
    return foolbox.PyTorchModel(model, bounds=bounds or model.bounds, device=device)
