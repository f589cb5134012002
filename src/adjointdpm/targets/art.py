"""To and from the classifiers of the Adversarial Robustness Toolbox (ART)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..features import Preprocessing
from ..objectives import ImageClassifier
from .noise import NoiseClassifier
from .packages import optional

INSTALL = "adversarial-robustness-toolbox"


class ArtModule(nn.Module):
    """The logits of ART's ``PyTorchClassifier``, with its own preprocessing, of pictures in [0, 1].

    Args:
        classifier: the classifier.
    """

    low: Tensor
    span: Tensor

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.model = classifier.model
        self.operations = [op for op in classifier.preprocessing_operations if op.apply_predict]
        low, high = (torch.as_tensor(x, dtype=torch.float32) for x in classifier.clip_values)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("span", high - low, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (batch, classes), of (batch, channels, height, width) in [0, 1]."""
        x = self.low + self.span * images
        for operation in self.operations:
            x, _ = operation.forward(x)
        return self.model(x)


def from_art(classifier: Any, labels: Sequence[str]) -> ImageClassifier:
    """Return a ``PyTorchClassifier`` of ART as a target.

    Its preprocessing (standardisation and defences) stays in front of it, and pictures in [0, 1]
    are brought to its ``clip_values`` and its size.

    Args:
        classifier: an ``art.estimators.classification.PyTorchClassifier`` of pictures, channels
            first.
        labels: the names of its classes, by index.

    Raises:
        ValueError: it has no ``clip_values``, or something in it has no gradient.
    """
    if classifier.clip_values is None:
        raise ValueError("the classifier of ART has no clip_values, so its pixels have no bounds")
    if not classifier.channels_first or len(classifier.input_shape) != 3:
        raise ValueError(
            f"the classifier of ART takes inputs of shape {classifier.input_shape} with "
            f"channels_first={classifier.channels_first}; it must be (channels, height, width)"
        )
    if classifier.preprocessing_operations and not classifier.all_framework_preprocessing:
        raise ValueError(
            "the classifier of ART preprocesses pictures in NumPy, which has no gradient; use "
            "defences and standardisation in PyTorch (PreprocessorPyTorch)"
        )
    if classifier.postprocessing_defences:
        raise ValueError(
            "the classifier of ART changes its answers afterwards (postprocessing_defences), "
            "which has no gradient; leave that out"
        )
    _, height, width = classifier.input_shape
    module = ArtModule(classifier).eval().requires_grad_(False)
    return ImageClassifier(module, Preprocessing((height, width)), labels)


def to_art(
    model: ImageClassifier | NoiseClassifier,
    input_shape: Sequence[int],
    bounds: tuple[float, float] | None = None,
) -> Any:
    """Return a target, or a classifier of noises, as ART's attacks take it.

    Args:
        model: the classifier.
        input_shape: of one input: (channels, height, width) of pictures, or of latents.
        bounds: the smallest and the largest value of an input; by default the model's own.

    Returns:
        An ``art.estimators.classification.PyTorchClassifier`` on the model's device.

    Raises:
        ImportError: ART is not installed.
    """
    estimators = optional("art.estimators.classification", INSTALL)
    device = next(model.parameters(), torch.empty(0)).device
    return estimators.PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(input_shape),
        nb_classes=len(model.labels),
        clip_values=bounds or model.bounds,
        device_type="cpu" if device.type == "cpu" else "gpu",
    )
