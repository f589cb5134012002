"""An image processor of transformers as a differentiable function."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .image_processor import read_kind, read_normalization, read_resizing


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
            ValueError: a filter, a form of size or a kind of processor that is not known here.
        """
        kind = read_kind(config)
        resizing, values = read_resizing(config, kind), read_normalization(config, kind)
        return cls(**resizing._asdict(), **values._asdict())

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
            rows, columns = (
                torch.tensor(_nearest(*lengths), device=images.device)
                for lengths in zip((height, width), target, strict=True)
            )
            return images.index_select(2, rows).index_select(3, columns)
        # Pillow's filters grow with the reduction, which is what antialias does here.
        return functional.interpolate(
            images, target, mode=self.resample, align_corners=False, antialias=True
        )


def _nearest(length: int, target: int) -> list[int]:
    """Return which pixels Pillow takes; where two are as near, its rounding errors decide."""
    step = length / target
    places = accumulate(repeat(step, target - 1), initial=step / 2)
    return [int(place) for place in places]


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
