"""DDPMPipeline and DDIMPipeline: unconditional models of the pixels themselves."""

from __future__ import annotations

from torch import Tensor, nn

from ...decoding import Clamp, Decoder, to_unit_range
from ..requests import SamplingRequest, Size
from .unets import UNetFamily


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


class Pixel(UNetFamily):
    """DDPMPipeline and DDIMPipeline."""

    @property
    def guided(self) -> bool:
        """False: there is no prompt to be guided to."""
        return False

    @property
    def pixels_per_latent(self) -> int:
        """One: latents are the pictures themselves."""
        return 1

    def network(self, request: SamplingRequest) -> nn.Module:
        """Return the UNet."""
        unet: nn.Module = self.pipe.unet
        return unet

    def decoder(self, size: Size) -> Decoder:
        """Return what maps samples to [0, 1]."""
        return PixelDecoder()

    def encode_image(self, images: Tensor) -> Tensor:
        """Return pictures in [-1, 1] of pictures in [0, 1]."""
        return 2 * images - 1
