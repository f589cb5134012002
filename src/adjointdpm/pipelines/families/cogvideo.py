"""CogVideoXPipeline: CogVideoX and CogVideoX 1.5 from text."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...decoding import Decoder
from ..diffusers_private import cogvideox_rotary_embeddings
from ..requests import SamplingRequest, Size
from .video import VideoDecoder, VideoFamily


class CogVideoXNetwork(nn.Module):
    """The transformer of CogVideoX.

    Args:
        pipe: the pipeline.
    """

    def __init__(self, pipe: Any) -> None:
        super().__init__()
        self.transformer = pipe.transformer
        self.vae_scale_factor_spatial = pipe.vae_scale_factor_spatial
        # Of a pipeline it needs no more than the two attributes above, which this module has too.
        self._rotary_embeddings = cogvideox_rotary_embeddings(pipe)

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """Return the prediction for latents (batch, frames, channels, height, width)."""
        rotary = None
        if self.transformer.config.use_rotary_positional_embeddings:
            height, width = (n * self.vae_scale_factor_spatial for n in x.shape[-2:])
            rotary = self._rotary_embeddings(self, height, width, x.shape[1], x.device)
        return self.transformer(
            x, encoder_hidden_states, t, image_rotary_emb=rotary, return_dict=False
        )[0]


class CogVideoXDecoder(VideoDecoder):
    """Videos of CogVideoX's latents.

    Args:
        vae: the autoencoder.
        scaling_factor: what latents were multiplied with to have unit variance.
        padding: how many latent frames were put in front for the sake of the patches' length.
    """

    def __init__(self, vae: nn.Module, scaling_factor: float, padding: int = 0) -> None:
        super().__init__(vae, scaling_factor)
        self.padding = padding

    def decode(self, latents: Tensor) -> Tensor:
        """Return the autoencoder's videos of latents (batch, frames, channels, height, width)."""
        return super().decode(latents[:, self.padding :].transpose(1, 2))


class CogVideoX(VideoFamily):
    """CogVideoXPipeline."""

    def network(self, request: SamplingRequest) -> nn.Module:
        """Return the transformer."""
        return CogVideoXNetwork(self.pipe)

    def decoder(self, size: Size) -> Decoder:
        """Return the decoder of videos of a size."""
        _, padding = self._latent_frames(size)
        return CogVideoXDecoder(self.pipe.vae, self.pipe.vae.config.scaling_factor, padding)

    def latent_shape(self, size: Size) -> tuple[int, ...]:
        """Return (frames, channels, height, width) of the latents."""
        config, ratio = self.pipe.transformer.config, self.pipe.vae_scale_factor_spatial
        height = config.sample_height if size.height is None else size.height // ratio
        width = config.sample_width if size.width is None else size.width // ratio
        return sum(self._latent_frames(size)), config.in_channels, height, width

    def _latent_frames(self, size: Size) -> tuple[int, int]:
        """Return the number of latent frames, and how many more fill up the last patch."""
        config = self.pipe.transformer.config
        num_frames = config.sample_frames if size.num_frames is None else size.num_frames
        frames = (num_frames - 1) // self.pipe.vae_scale_factor_temporal + 1
        return frames, -frames % (config.patch_size_t or 1)
