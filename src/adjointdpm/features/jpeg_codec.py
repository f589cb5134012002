"""Pictures as a JPEG file would hold them, with a gradient."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .rounding import RoundingGradient, check_gradient
from .surrogate import straight_through


def jpeg(
    images: Tensor, quality: int = 75, gradient: RoundingGradient = "straight_through"
) -> Tensor:
    """Write pictures into JPEG files and read them again.

    Straight through, pictures are those that Pillow reads from its own files, and the gradient is
    that of the identity; they pass through the host for it. The smooth form is kornia's (Reich et
    al., 2024, WACV; Shin and Song, 2017), in which coefficients are rounded softly. See
    `features.rounding` for what the three gradients mean.

    Args:
        images: (batch, 3, height, width) in [0, 1].
        quality: of the file, 1 to 100.
        gradient: ``straight_through``, ``smooth`` or ``exact``, which is zero.

    Raises:
        ValueError: no such gradient or quality.
    """
    check_gradient(gradient)
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must lie between 1 and 100, not {quality}")
    if gradient == "smooth":
        from kornia.enhance import jpeg_codec_differentiable  # slow to import

        return jpeg_codec_differentiable(images, torch.tensor([float(quality)]))
    written = _through_files(images, quality)
    return straight_through(written, images if gradient == "straight_through" else 0 * images)


def _through_files(images: Tensor, quality: int) -> Tensor:
    pixels = images.detach().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    read = []
    for picture in pixels:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        read.append(np.array(Image.open(file)))
    return torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).to(images) / 255
