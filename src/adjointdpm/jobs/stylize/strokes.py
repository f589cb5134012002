"""A picture in a style of its own, for those who bring none."""

from __future__ import annotations

import torch
from torch import Tensor

PALETTE = ((0.07, 0.13, 0.38), (0.16, 0.42, 0.68), (0.93, 0.76, 0.25), (0.98, 0.93, 0.72))
"""Night blue, sky blue, straw, cream: each a (red, green, blue)."""
CENTRES = ((0.25, 0.3), (0.75, 0.2), (0.6, 0.75), (0.1, 0.9))


def painted_strokes(size: int = 64, width: float = 0.13) -> Tensor:
    """Return strokes that run around four centres, as in van Gogh's skies.

    Args:
        size: of the picture, in pixels.
        width: distance of one stroke to the next, as a share of the picture.

    Returns:
        (3, size, size) in [0, 1].
    """
    axis = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    distances = torch.stack([torch.hypot(x - a, y - b) for a, b in CENTRES])
    # The logarithm lets the strokes around one centre bend towards those of the next.
    distance = -torch.logsumexp(-distances / 0.05, 0) * 0.05
    wave = torch.sin(2 * torch.pi * distance / width)
    shade = (wave + 1) / 2 * (len(PALETTE) - 1)
    palette = torch.tensor(PALETTE).mT[:, :, None, None]
    near = (1 - (shade - torch.arange(len(PALETTE))[:, None, None]).abs()).clamp(min=0)
    return (palette * near).sum(1)
