"""Changes of colour that have a gradient everywhere."""

from __future__ import annotations

from torch import Tensor

from .surrogate import straight_through


def adjust_color(
    images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor
) -> Tensor:
    """Return pictures with other brightness, contrast and saturation, clamped straight through.

    The formulas are those of torchvision and kornia, one after the other; 1 changes nothing. Their
    own functions clamp after each, and where a white background is made brighter that has no
    gradient.

    Args:
        images: (batch, 3, height, width) in [0, 1].
        brightness: (batch,) what pictures are multiplied with.
        contrast: (batch,) how far pixels are from the mean grey of their picture.
        saturation: (batch,) how far channels are from the grey of their pixel.
    """
    from kornia.color import rgb_to_grayscale  # slow to import

    bright, distinct, vivid = (
        factor.to(images)[:, None, None, None] for factor in (brightness, contrast, saturation)
    )
    changed = images * bright
    changed = rgb_to_grayscale(changed).mean((2, 3), keepdim=True).lerp(changed, distinct)
    changed = rgb_to_grayscale(changed).lerp(changed, vivid)
    return straight_through(changed.clamp(0, 1), changed)
