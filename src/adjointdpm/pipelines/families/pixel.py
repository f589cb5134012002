"""DDPMPipeline and DDIMPipeline: unconditional models of the pixels themselves."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...decoding import Clamp, Decoder, to_unit_range
from ..family import Family, Parts, SamplingConfig, Size
from .stable_diffusion import unet_shape


class PixelDecoder(Decoder):
    """Pictures in [0, 1] of samples that are pictures in [-1, 1] already.

    Args:
        clamp: see `to_unit_range`.
    """

    def __init__(self, clamp: Clamp = "straight_through") -> None:
        super().__init__(nn.Identity(), clamp=clamp)

    def forward(self, latents: Tensor, clamp: Clamp | None = None) -> Tensor:
        """Return the pictures of samples of shape (batch, channels, height, width)."""
        return to_unit_range(latents, clamp or self.clamp)


def take_apart(pipe: Any, config: SamplingConfig) -> Parts:
    """Return the network of a pipeline whose samples are pictures."""
    return Parts(pipe.unet, PixelDecoder(), guided=False)


def latent_shape(pipe: Any, size: Size) -> tuple[int, ...]:
    """Return (channels, height, width) of the pictures."""
    return unet_shape(pipe.unet, size, 1)


PIXEL = Family(take_apart, latent_shape)
