"""Pictures of Pillow as tensors."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor


def from_pil(image: Image.Image) -> Tensor:
    """Return a picture as (3, height, width) in [0, 1].

    >>> from_pil(Image.new("RGB", (2, 1), "red"))[:, 0, 0]
    tensor([1., 0., 0.])
    """
    pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return pixels.reshape(image.height, image.width, 3).permute(2, 0, 1) / 255
