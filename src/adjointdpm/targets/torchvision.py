"""Classifiers of torchvision, where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..features import Preprocessing
from ..objectives import ImageClassifier
from .packages import optional
from .weights import load_weights


def torchvision_classifier(
    name: str, weights: str | Path | None = None, labels: Sequence[str] | None = None
) -> ImageClassifier:
    """Return a classifier of torchvision, frozen, with the preprocessing of its best weights.

    Args:
        name: as ``torchvision.models.get_model`` takes it.
        weights: a safetensors file with its weights; by default torchvision downloads its own.
        labels: the names of its classes; by default those of ImageNet.

    Raises:
        ImportError: torchvision is not installed.
        ValueError: its preprocessing is not that of a classifier.
    """
    models = optional("torchvision.models", "torchvision")
    trained = models.get_model_weights(name).DEFAULT
    if weights is None:
        model = models.get_model(name, weights=trained)
    else:
        model = models.get_model(name, weights=None)
        load_weights(model, weights)
    return ImageClassifier(
        model.eval().requires_grad_(False),
        read_preset(trained.transforms()),
        labels or trained.meta["categories"],
    )


def read_preset(preset: Any) -> Preprocessing:
    """Return the preprocessing that a preset of torchvision describes.

    Args:
        preset: a ``torchvision.transforms._presets.ImageClassification``.

    Raises:
        ValueError: it is of another kind, or uses a filter that is not known here.
    """
    try:
        [size] = preset.resize_size
        [crop] = preset.crop_size
        mean, std, resample = preset.mean, preset.std, preset.interpolation.value
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            f"the preset {preset!r} is not that of a classifier of torchvision; pass an "
            "ImageClassifier with preprocessing of your own"
        ) from None
    if resample not in ("nearest", "bilinear", "bicubic"):
        raise ValueError(f"torchvision resizes with {resample!r}, which has no gradient here")
    return Preprocessing(size, (crop, crop), tuple(mean), tuple(std), resample)
