"""LTXPipeline: LTX-Video from text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...decoding import Decoder
from ..family import Conditioning, Family
from ..requests import PromptRequest, SamplingRequest, Size
from .shifting import dynamic_shift, linear_sigmas
from .transformers import masked_text
from .video import VideoDecoder


class LTXNetwork(nn.Module):
    """The transformer of LTX-Video, whose tokens are single latents.

    Args:
        transformer: the transformer.
        temporal_ratio: frames of a latent.
        spatial_ratio: pixels of a latent, along each side.
    """

    def __init__(self, transformer: nn.Module, temporal_ratio: int, spatial_ratio: int) -> None:
        super().__init__()
        self.transformer = transformer
        self.temporal_ratio = temporal_ratio
        self.spatial_ratio = spatial_ratio

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        frame_rate: float = 25,
    ) -> Tensor:
        """Return the prediction for latents (batch, channels, frames, height, width)."""
        num_frames, height, width = x.shape[2:]
        output = self.transformer(
            hidden_states=x.flatten(2).transpose(1, 2),
            encoder_hidden_states=encoder_hidden_states,
            timestep=t,
            encoder_attention_mask=encoder_attention_mask,
            num_frames=num_frames,
            height=height,
            width=width,
            rope_interpolation_scale=(
                self.temporal_ratio / frame_rate,
                self.spatial_ratio,
                self.spatial_ratio,
            ),
            return_dict=False,
        )[0]
        return output.transpose(1, 2).reshape(x.shape)


class LTXDecoder(VideoDecoder):
    """Videos of LTX's latents; later versions of the autoencoder also denoise.

    For those, set `decode_timestep` and `decode_noise_scale`, which the pipeline takes as
    arguments. The noise is the same in every call, so that the pictures are a function of the
    latents.
    """

    decode_timestep: float = 0.0
    """The time that the autoencoder is told, from 0 to 1."""
    decode_noise_scale: float | None = None
    """The share of noise that is mixed into the latents; `decode_timestep` if None."""
    decode_seed: int = 0
    """Of the noise."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return the autoencoder's videos of latents (batch, channels, frames, height, width)."""
        if not self.vae.config.timestep_conditioning:
            return super().decode(latents)
        scale = self.decode_noise_scale
        generator = torch.Generator().manual_seed(self.decode_seed)
        noise = torch.randn(latents.shape, generator=generator, dtype=latents.dtype)
        latents = torch.lerp(
            latents, noise.to(latents.device), self.decode_timestep if scale is None else scale
        )
        timestep = latents.new_full((len(latents),), self.decode_timestep)
        return self.vae.decode(latents, timestep, return_dict=False)[0].transpose(1, 2)


class LTX(Family):
    """LTXPipeline; its sampler also takes ``frame_rate``, a number that is 25 by default."""

    def network(self, request: SamplingRequest) -> nn.Module:
        """Return the transformer."""
        pipe = self.pipe
        ratios = pipe.vae_temporal_compression_ratio, pipe.vae_spatial_compression_ratio
        return LTXNetwork(pipe.transformer, *ratios)

    def decoder(self, size: Size) -> Decoder:
        """Return the decoder."""
        vae = self.pipe.vae
        mean, std = (
            statistic.double().reshape(1, -1, 1, 1, 1)
            for statistic in (vae.latents_mean, vae.latents_std)
        )
        return LTXDecoder(vae, vae.config.scaling_factor / std, mean)

    def set_timesteps(self, request: SamplingRequest) -> Mapping[str, Any]:
        """Return the sigmas and how they are shifted."""
        num_tokens = math.prod(self.latent_shape(request.size)[1:])
        return {
            "sigmas": linear_sigmas(request.num_inference_steps),
            "mu": dynamic_shift(request.scheduler, num_tokens),
        }

    def latent_shape(self, size: Size) -> tuple[int, ...]:
        """Return (channels, frames, height, width) of the latents."""
        pipe = self.pipe
        height = 512 if size.height is None else size.height
        width = 704 if size.width is None else size.width
        num_frames = 161 if size.num_frames is None else size.num_frames
        return (
            pipe.transformer.config.in_channels,
            (num_frames - 1) // pipe.vae_temporal_compression_ratio + 1,
            height // pipe.vae_spatial_compression_ratio,
            width // pipe.vae_spatial_compression_ratio,
        )

    def encode(self, request: PromptRequest) -> tuple[Conditioning, Conditioning]:
        """Return embeddings and masks of a prompt."""
        encoded = self.pipe.encode_prompt(
            request.prompt,
            request.negative_prompt,
            do_classifier_free_guidance=request.guidance,
            **request.arguments,
        )
        return masked_text(*encoded)
