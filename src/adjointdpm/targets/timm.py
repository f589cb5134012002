"""Classifiers of timm, where it is installed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..features import Preprocessing
from ..objectives import ImageClassifier
from .packages import optional
from .weights import load_weights


def timm_classifier(
    name: str, weights: str | Path | None = None, labels: Sequence[str] | None = None
) -> ImageClassifier:
    """Return a model of timm as it is evaluated, frozen.

    Args:
        name: as ``timm.create_model`` takes it.
        weights: a safetensors file with its weights; by default timm downloads its own.
        labels: the names of its classes; by default those of the subset of ImageNet that it was
            trained on.

    Raises:
        ImportError: timm, or torchvision, which it imports, is not installed.
        ValueError: there are no names for its classes, or its pictures are padded or resized in a
            way that is not known here.
    """
    timm = optional("timm", "timm torchvision")
    model = timm.create_model(name, pretrained=weights is None).eval()
    if weights is not None:
        load_weights(model, weights)
    if labels is None:
        subset = timm.data.infer_imagenet_subset(model)
        if subset is None:
            raise ValueError(f"timm does not say what the classes of {name} are: pass labels")
        labels = timm.data.ImageNetInfo(subset).label_descriptions()
    config = timm.data.resolve_model_data_config(model)
    return ImageClassifier(model.requires_grad_(False), read_data_config(config), labels)


def read_data_config(config: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that a data config of timm describes.

    Args:
        config: what ``timm.data.resolve_model_data_config`` returns.

    Raises:
        ValueError: a way of cropping or a filter that is not known here.

    >>> config = {"input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": "bicubic",
    ...           "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_mode": "center"}
    >>> read_data_config(config).size, read_data_config(config).crop
    (256, (224, 224))
    """
    _, height, width = config["input_size"]
    scaled = tuple(math.floor(edge / config["crop_pct"]) for edge in (height, width))
    mode, resample = config["crop_mode"], config["interpolation"]
    if mode == "border" or (mode == "center" and scaled[0] != scaled[1]):
        raise ValueError(
            f"timm's crop_mode {mode!r} with an input of {height} by {width} is not known here; "
            "pass an ImageClassifier with preprocessing of your own"
        )
    if resample not in ("nearest", "bilinear", "bicubic"):
        raise ValueError(f"timm resizes pictures with {resample!r}, which has no gradient here")
    return Preprocessing(
        size=(scaled[0], scaled[1]) if mode == "squash" else scaled[0],
        crop=(height, width),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        resample=resample,
    )
