"""An image processor of transformers as a differentiable function."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the filters that can be differentiated here."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop and normalise pictures in [0, 1], as a network was trained to see them.

    Args:
        size: (height, width) to resize to, or the length of the shortest edge; None to leave it.
        crop: (height, width) cut out of the centre afterwards; None for none.
        mean: mean of each channel.
        std: standard deviation of each channel.
        resample: ``nearest``, ``bilinear`` or ``bicubic``.
        scale: what pictures in [0, 1] are multiplied with before they are normalised.

    >>> import torch
    >>> preprocessing = Preprocessing(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> preprocessing(torch.ones(2, 3, 64, 96)).shape
    torch.Size([2, 3, 32, 48])
    """

    size: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    resample: str = "bilinear"
    scale: float = 1.0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Preprocessing:
        """Read the config of a transformers image processor.

        Args:
            config: the content of ``preprocessor_config.json``.

        Raises:
            ValueError: a filter or a form of size that cannot be differentiated or is not known.
        """
        size = _read_size(config.get("size")) if config.get("do_resize", True) else None
        crop = _read_size(config.get("crop_size")) if config.get("do_center_crop") else None
        if isinstance(crop, int):
            crop = (crop, crop)
        if "crop_pct" in config and isinstance(size, int):
            # ConvNext and ResNet: below 384 a larger picture is cropped, above it is squeezed.
            small = size < 384
            crop = (size, size) if small else crop
            size = int(size / config["crop_pct"]) if small else (size, size)
        resample = int(config.get("resample", 2))
        if resample not in RESAMPLING:
            raise ValueError(
                f"the image processor resamples with Pillow's filter {resample}; differentiable "
                f"are {', '.join(f'{k} ({v})' for k, v in RESAMPLING.items())}"
            )
        normalize = config.get("do_normalize", True)
        scale = 255.0
        if config.get("do_rescale", True):
            scale *= float(config.get("rescale_factor", 1 / 255))
        return cls(
            size=size,
            crop=crop,
            mean=tuple(config["image_mean"]) if normalize else (0.0, 0.0, 0.0),
            std=tuple(config["image_std"]) if normalize else (1.0, 1.0, 1.0),
            resample=RESAMPLING[resample],
            scale=scale,
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Preprocessing:
        """Read ``preprocessor_config.json`` of a model's folder."""
        path = Path(folder) / "preprocessor_config.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: it says how the model's pictures are resized and normalised. "
                "Save the image processor beside the model, or pass Preprocessing(...) yourself"
            )
        return cls.from_config(json.loads(path.read_text()))

    def __call__(self, images: Tensor) -> Tensor:
        """Return what the network is to see.

        Args:
            images: (batch, channels, height, width) in [0, 1].
        """
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise ValueError(
                f"pictures must have the shape (batch, {len(self.mean)}, height, width), not "
                f"{tuple(images.shape)}"
            )
        images = self._resize(images)
        if self.crop is not None:
            images = _center_crop(images, self.crop)
        mean = images.new_tensor(self.mean)[:, None, None]
        std = images.new_tensor(self.std)[:, None, None]
        return (images * self.scale - mean) / std

    def _resize(self, images: Tensor) -> Tensor:
        if self.size is None:
            return images
        height, width = images.shape[-2:]
        if isinstance(self.size, int):
            short = min(height, width)
            target = (int(self.size * height / short), int(self.size * width / short))
        else:
            target = self.size
        if target == (height, width):
            return images
        if self.resample == "nearest":
            return functional.interpolate(images, target, mode="nearest-exact")
        # Pillow's filters grow with the reduction, which is what antialias does here.
        return functional.interpolate(
            images, target, mode=self.resample, align_corners=False, antialias=True
        )


def _read_size(size: Any) -> int | tuple[int, int] | None:
    if size is None or isinstance(size, int):
        return size
    if size.get("shortest_edge"):
        return int(size["shortest_edge"])
    if "height" in size and "width" in size:
        return int(size["height"]), int(size["width"])
    raise ValueError(f"the size {size!r} is not understood; give shortest_edge or height and width")


def _center_crop(images: Tensor, crop: tuple[int, int]) -> Tensor:
    height, width = images.shape[-2:]
    if crop == (height, width):
        return images
    pad_y, pad_x = max(crop[0] - height, 0), max(crop[1] - width, 0)
    if pad_y or pad_x:
        images = functional.pad(
            images, (pad_x // 2, pad_x - pad_x // 2, pad_y // 2, pad_y - pad_y // 2)
        )
        height, width = images.shape[-2:]
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    return images[..., top : top + crop[0], left : left + crop[1]]
