"""WanPipeline: Wan 2.1, and Wan 2.2 with its two transformers or its timestep for each token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...decoding import Decoder
from ...denoiser import GuidanceScale
from ..family import Conditioning
from ..requests import PromptRequest, SamplingRequest, Size
from .video import VideoDecoder, VideoFamily

TEXT_LENGTH = 512
"""Tokens of a prompt in a call of the pipeline; its ``encode_prompt`` has another default."""


class WanNetwork(nn.Module):
    """One transformer, or two of which the time picks one (Wan 2.2).

    Args:
        transformer: for all times, or those from ``boundary`` on.
        transformer_2: for the times below ``boundary``.
        boundary: where the two meet, in the scheduler's time; None for one transformer.
        expand_timesteps: whether the transformer takes the time of each token.
    """

    def __init__(
        self,
        transformer: Any,
        transformer_2: Any = None,
        boundary: float | None = None,
        expand_timesteps: bool = False,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.transformer_2 = transformer_2
        self.boundary = boundary
        self.expand_timesteps = expand_timesteps

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """Return the transformer's output for latents (batch, channels, frames, height, width)."""
        transformer = self._at(t)
        if self.expand_timesteps:
            tokens = x[0, 0, :, ::2, ::2].numel()
            t = t[:, None].expand(-1, tokens)
        return transformer(x, t, encoder_hidden_states, return_dict=False)[0]

    @property
    def dtype(self) -> torch.dtype:
        """What the transformers take; of those in half precision some weights stay float32."""
        some: Any = self.transformer if self.transformer is not None else self.transformer_2
        return some.dtype

    def _at(self, t: Tensor) -> Any:
        if self.boundary is None:
            return self.transformer
        # A GPU is waited for here, once a call, as in the pipeline itself.
        stages = set((t >= self.boundary).tolist())
        if len(stages) > 1:
            raise ValueError(
                f"the times of one batch lie on both sides of {self.boundary:g}, where Wan's "
                "transformers change over; call the network once for each side"
            )
        return self.transformer if True in stages else self.transformer_2


class _Unclamped(TorchFunctionMode):
    """Leaves out the clamp that ends Wan's autoencoder.

    The decoder has its own, which by default passes the gradient on; this one would stop it.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return args[0] if func is torch.clamp else func(*args, **(kwargs or {}))


class WanDecoder(VideoDecoder):
    """Videos of Wan's latents."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return the autoencoder's videos, before it clamps them to [-1, 1]."""
        with _Unclamped():
            return super().decode(latents)


class Wan(VideoFamily):
    """WanPipeline."""

    @property
    def _expands_timesteps(self) -> bool:
        return bool(self.pipe.config.expand_timesteps)

    def _boundary(self, request: SamplingRequest) -> float | None:
        """Return the time below which the second transformer is called."""
        ratio = self.pipe.config.boundary_ratio
        return None if ratio is None else ratio * request.scheduler.config.num_train_timesteps

    def network(self, request: SamplingRequest) -> nn.Module:
        """Return the transformer, or both."""
        pipe, boundary = self.pipe, self._boundary(request)
        if boundary is None:
            return WanNetwork(pipe.transformer, expand_timesteps=self._expands_timesteps)
        return WanNetwork(pipe.transformer, pipe.transformer_2, boundary, self._expands_timesteps)

    def decoder(self, size: Size) -> Decoder:
        """Return the decoder."""
        config = self.pipe.vae.config
        mean, std = (
            torch.tensor(statistic, dtype=torch.float64).reshape(1, -1, 1, 1, 1)
            for statistic in (config.latents_mean, config.latents_std)
        )
        return WanDecoder(self.pipe.vae, 1 / std, mean)

    def guidance_scale(self, request: SamplingRequest) -> GuidanceScale | None:
        """Return the guidance scale by the time, where the second transformer has another."""
        boundary = self._boundary(request)
        scale, scale_2 = request.guidance_scale, request.guidance_scale_2
        if boundary is None or scale <= 1.0 or scale_2 is None:
            return None

        def at(t: Any) -> Any:
            if isinstance(t, Tensor):
                second = torch.full_like(t, scale_2, dtype=torch.float64)
                return second.masked_fill(t >= boundary, scale)
            return scale if t >= boundary else scale_2

        return at

    def latent_shape(self, size: Size) -> tuple[int, ...]:
        """Return (channels, frames, height, width) of the latents."""
        pipe = self.pipe
        transformer = pipe.transformer if pipe.transformer is not None else pipe.transformer_2
        height = 480 if size.height is None else size.height
        width = 832 if size.width is None else size.width
        num_frames = 81 if size.num_frames is None else size.num_frames
        _, patch_height, patch_width = transformer.config.patch_size
        ratio = pipe.vae_scale_factor_spatial
        return (
            transformer.config.in_channels,
            # The pipeline rounds the frames to a multiple of the ratio, and one.
            num_frames // pipe.vae_scale_factor_temporal + 1,
            height // (ratio * patch_height) * patch_height,
            width // (ratio * patch_width) * patch_width,
        )

    def encode(self, request: PromptRequest) -> tuple[Conditioning, Conditioning]:
        """Return the embeddings of a prompt."""
        return super().encode(request.with_default("max_sequence_length", TEXT_LENGTH))
