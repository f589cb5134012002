"""AnimateDiff (arXiv 2307.04725): Stable Diffusion with motion between the frames of a video."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...decoding import Decoder
from ..requests import SamplingRequest, Size
from .stable_diffusion import StableDiffusion

DEFAULT_FRAMES = 16
"""Frames of a video, as in the pipeline's call."""


class MotionUNet(nn.Module):
    """A UNet with motion modules that is given one prompt for a whole video.

    Args:
        unet: takes a prompt for each frame.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, *, encoder_hidden_states: Tensor, **cond: Any) -> Any:
        """Return the output for latents ``x`` of shape (batch, channels, frames, height, width)."""
        of_frames = encoder_hidden_states.repeat_interleave(x.shape[2], dim=0)
        return self.unet(x, t, encoder_hidden_states=of_frames, **cond)


class FrameDecoder(Decoder):
    """Videos of latents, each frame a picture: (batch, frames, channels, height, width)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return the videos of latents (batch, channels, frames, height, width)."""
        frames = super().decode(latents.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (len(latents), -1))


class AnimateDiff(StableDiffusion):
    """AnimateDiffPipeline."""

    @property
    def guided(self) -> bool:
        """True: the pipeline does not tell the UNet of a guidance scale."""
        return True

    def network(self, request: SamplingRequest) -> nn.Module:
        """Return the UNet with its motion modules.

        Raises:
            ValueError: FreeNoise or FreeInit is on; they sample in other ways.
        """
        for name in ("free_noise", "free_init"):
            if getattr(self.pipe, f"{name}_enabled"):
                raise ValueError(
                    f"{name} is not one sampling of a fixed plan; turn it off: "
                    f"pipe.disable_{name}()"
                )
        return MotionUNet(self.pipe.unet)

    def decoder(self, size: Size) -> Decoder:
        """Return the decoder of frames."""
        return FrameDecoder(self.pipe.vae, self.pipe.vae.config.scaling_factor)

    def latent_shape(self, size: Size) -> tuple[int, ...]:
        """Return (channels, frames, height, width) of the latents."""
        channels, *area = super().latent_shape(size)
        return channels, size.num_frames or DEFAULT_FRAMES, *area
