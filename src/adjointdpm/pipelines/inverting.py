"""From a given picture to the noise that a pipeline draws it from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..decoding import Decoder
from ..inversion import Inversion, invert
from ..sampler import Sampler
from .adapt import encode_image


@dataclass(frozen=True)
class ImageInversion:
    """The noise of pictures, and what is drawn from it.

    Args:
        inversion: of the pictures' latents; its noise is that of the pictures.
        images: (batch, 3, height, width) in [0, 1], what is drawn from the noise.
        pixel_error: (batch,) root mean square of the difference from the given pictures.
        autoencoder_error: (batch,) the same of the pictures that are only encoded and decoded: how
            much of the error is none of the inversion's.
    """

    inversion: Inversion
    images: Tensor
    pixel_error: Tensor
    autoencoder_error: Tensor

    @property
    def noise(self) -> Tensor:
        """The noise, (batch, ...)."""
        return self.inversion.noise


@torch.no_grad()
def invert_images(
    pipe: Any, sampler: Sampler, decode: Decoder, images: Tensor, **arguments: Any
) -> ImageInversion:
    """Return the noise from which given pictures are drawn, as nearly as the model can.

    Args:
        pipe: the pipeline.
        sampler: of the pipeline, of a one-step method or with `Reversible`; see `invert`.
        decode: of the pipeline.
        images: (batch, 3, height, width) in [0, 1], of a size that the pipeline draws.
        **arguments: of `invert`, the conditioning among them.

    Raises:
        ValueError: pictures in another range, no known encoder, or a sampler that cannot be
            inverted.
    """
    low, high = (float(value) for value in images.aminmax())
    if not 0 <= low <= high <= 1:
        raise ValueError(f"pictures must lie in [0, 1], not from {low:.3g} to {high:.3g}")
    latents = encode_image(pipe, images)
    found = invert(sampler, latents, **arguments)
    drawn = decode(found.sample)
    return ImageInversion(
        found, drawn, _difference(drawn, images), _difference(decode(latents), images)
    )


def _difference(images: Tensor, others: Tensor) -> Tensor:
    return (images - others).square().flatten(1).mean(1).sqrt()
