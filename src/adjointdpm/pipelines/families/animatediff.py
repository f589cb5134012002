"""AnimateDiff (arXiv 2307.04725): Stable Diffusion with motion between the frames of a video."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...decoding import Decoder
from ..family import Family, Parts, SamplingConfig, Size
from .stable_diffusion import encode_prompt, unet_shape

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


def take_apart(pipe: Any, config: SamplingConfig) -> Parts:
    """Return the network and the decoder of an AnimateDiffPipeline.

    Raises:
        ValueError: FreeNoise or FreeInit is on; they sample in other ways.
    """
    for name in ("free_noise", "free_init"):
        if getattr(pipe, f"{name}_enabled"):
            raise ValueError(
                f"{name} is not one sampling of a fixed plan; turn it off: pipe.disable_{name}()"
            )
    decoder = FrameDecoder(pipe.vae, pipe.vae.config.scaling_factor)
    return Parts(MotionUNet(pipe.unet), decoder)


def latent_shape(pipe: Any, size: Size) -> tuple[int, ...]:
    """Return (channels, frames, height, width) of the latents."""
    channels, height, width = unet_shape(pipe.unet, size, pipe.vae_scale_factor)
    return channels, size.num_frames or DEFAULT_FRAMES, height, width


ANIMATEDIFF = Family(take_apart, latent_shape, encode_prompt)
