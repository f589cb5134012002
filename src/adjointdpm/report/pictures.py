"""Pictures as files and as text inside a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..storage import write_bytes


def to_pil(image: Tensor, enlarge: int = 1) -> Image.Image:
    """Return a picture of (3, height, width) in [0, 1], each pixel ``enlarge`` pixels wide."""
    pixels = image.detach().mul(255).round().clamp(0, 255).to(torch.uint8)
    pixels = pixels.repeat_interleave(enlarge, 1).repeat_interleave(enlarge, 2)
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def contact_sheet(rows: list[Tensor], gap: int = 2) -> Tensor:
    """Return rows of (columns, 3, height, width) as one picture (3, ..., ...) on white."""

    def join(pictures: list[Tensor], dim: int) -> Tensor:
        size = list(pictures[0].shape)
        size[dim] = gap
        blank = pictures[0].new_ones(size)
        spaced = [part for picture in pictures for part in (blank, picture)][1:]
        return torch.cat(spaced, dim)

    return join([join(list(row), 2) for row in rows], 1)


def data_uri(image: Tensor) -> str:
    """Return a picture as the ``src`` of an ``img``, so that a page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(_png(image)).decode()


def save_picture(path: Path, image: Tensor, enlarge: int = 1) -> None:
    """Write a picture of (3, height, width) in [0, 1] as PNG, whole or not at all."""
    write_bytes(path, _png(image, enlarge))


def _png(image: Tensor, enlarge: int = 1) -> bytes:
    buffer = io.BytesIO()
    to_pil(image, enlarge).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
