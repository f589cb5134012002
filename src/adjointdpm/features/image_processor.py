"""What the config of an image processor of transformers means, kind by kind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the filters that can be differentiated here."""

SHORTEST_EDGE = {
    "bit", "chineseclip", "clip", "convnext", "levit", "mobilenetv1", "mobilenetv2", "poolformer",
    "siglip",
}  # fmt: skip
"""Kinds to which a size that is one number means the shortest edge."""

SQUARE = {"beit", "blip", "deit", "efficientnet", "owlvit", "pvt", "vit"}
"""Kinds to which it means a square."""


class Resizing(NamedTuple):
    """What happens to the size of a picture; fields as in `Preprocessing`."""

    size: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: str


class Normalization(NamedTuple):
    """``(scale * picture - mean) / std`` for pictures in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float


def read_kind(config: Mapping[str, Any]) -> str | None:
    """Return the kind of an image processor, such as ``clip``; None if the config does not say.

    Raises:
        ValueError: processors of this kind do more than can be read from their config.
    """
    name = config.get("image_processor_type") or config.get("feature_extractor_type")
    if name is None:
        return None
    kind = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", name).lower()
    if kind not in SHORTEST_EDGE | SQUARE:
        raise ValueError(
            f"what a {name} does is not known here; known are {', '.join(sorted(SHORTEST_EDGE))}, "
            f"{', '.join(sorted(SQUARE))}. Pass Preprocessing(...) with what the model expects"
        )
    if config.get("do_pad") or config.get("do_flip_channel_order"):
        raise ValueError(f"this {name} pads pictures or swaps channels, which is not done here")
    return kind


def read_resizing(config: Mapping[str, Any], kind: str | None) -> Resizing:
    """Read how pictures are resized and cropped.

    Raises:
        ValueError: a filter that has no gradient, or a size that is not understood.
    """
    crop = _read_size(config.get("crop_size"), "vit") if config.get("do_center_crop") else None
    if isinstance(crop, int):
        crop = (crop, crop)
    if not config.get("do_resize", True):
        return Resizing(None, crop, "bilinear")
    resample = config.get("resample")
    if resample not in RESAMPLING:
        raise ValueError(
            f"the image processor resamples with Pillow's filter {resample}; differentiable are "
            f"{', '.join(f'{k} ({v})' for k, v in RESAMPLING.items())}"
        )
    size = _read_size(config.get("size"), kind)
    if kind == "convnext" and isinstance(size, int):
        # Below 384 a larger picture is cropped, from there on it is squeezed.
        small = size < 384
        crop = (size, size) if small else crop
        size = int(size / config.get("crop_pct", 224 / 256)) if small else (size, size)
    elif kind == "poolformer" and config.get("crop_pct") is not None:
        # A square is taken for the shortest edge.
        square = isinstance(size, tuple) and size[0] == size[1]
        edge = size[0] if square and isinstance(size, tuple) else size
        size = _divided(edge, config["crop_pct"])
    elif kind == "levit" and isinstance(size, int):
        size = int((256 / 224) * size)
    return Resizing(size, crop, RESAMPLING[resample])


def _divided(size: int | tuple[int, int] | None, share: float) -> int | tuple[int, int] | None:
    if isinstance(size, tuple):
        return int(size[0] / share), int(size[1] / share)
    return None if size is None else int(size / share)


def read_normalization(config: Mapping[str, Any], kind: str | None) -> Normalization:
    """Read how values are scaled and normalised.

    Raises:
        ValueError: there is no mean or standard deviation.
    """
    scale = 255.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    shift = 0.0
    if config.get("do_rescale", True):
        scale *= float(config.get("rescale_factor", 1 / 255))
        shift = 1.0 if kind == "efficientnet" and config.get("rescale_offset") else 0.0
    given = config.get("image_mean"), config.get("image_std")
    if config.get("do_normalize", True):
        if None in given:
            raise ValueError("the image processor normalises, but has no image_mean or image_std")
        mean, std = tuple(config["image_mean"]), tuple(config["image_std"])
    if kind == "efficientnet" and config.get("include_top"):
        # These networks were trained on pictures that are divided once more.
        std = tuple(a * b for a, b in zip(std, config["image_std"], strict=True))
    return Normalization(tuple(m + shift for m in mean), std, scale)


def _read_size(size: Any, kind: str | None) -> int | tuple[int, int] | None:
    if size is None:
        return None
    if isinstance(size, int):
        if kind is None:
            raise ValueError(
                f"the size {size} may be the shortest edge or a square, and the config has no "
                "image_processor_type that decides; write it with shortest_edge or height and width"
            )
        return size if kind in SHORTEST_EDGE else (size, size)
    given = {key for key, value in size.items() if value is not None}
    if given == {"shortest_edge"}:
        return int(size["shortest_edge"])
    if given == {"height", "width"}:
        return int(size["height"]), int(size["width"])
    raise ValueError(f"the size {size!r} is not understood; give shortest_edge or height and width")
