"""Flux: flow matching in a transformer that takes the guidance scale as an input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...decoding import Decoder
from ..diffusers_private import execution_device
from ..family import Conditioning, Family
from ..requests import PromptRequest, SamplingRequest, Size
from .shifting import dynamic_shift, linear_sigmas
from .transformers import pack, unpack


class FluxNetwork(nn.Module):
    """Flux's transformer on latents as the autoencoder has them.

    Args:
        transformer: takes tokens of 2 x 2 latents.
        guidance_scale: what it was distilled to take; None for a model without (schnell).
    """

    def __init__(self, transformer: nn.Module, guidance_scale: float | None) -> None:
        super().__init__()
        self.transformer = transformer
        self.guidance_scale = guidance_scale

    def forward(self, x: Tensor, t: Tensor, *, encoder_hidden_states: Tensor, **cond: Any) -> Any:
        """Return the velocity for latents ``x`` of shape (batch, channels, height, width)."""
        height, width = x.shape[2] // 2, x.shape[3] // 2
        rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        if self.guidance_scale is not None:
            cond["guidance"] = x.new_full((len(x),), self.guidance_scale)
        output = self.transformer(
            pack(x),
            timestep=t.to(x.dtype) / 1000,  # rounded as in the pipeline
            encoder_hidden_states=encoder_hidden_states,
            txt_ids=x.new_zeros(encoder_hidden_states.shape[1], 3),
            img_ids=torch.cartesian_prod(rows.new_zeros(1), rows, columns).to(x),
            return_dict=False,
            **cond,
        )[0]
        return unpack(output, height, width)


@dataclass(frozen=True)
class SecondPrompt:
    """Other words for the second text encoder.

    Args:
        prompt_2: the same as the first if None.
        negative_prompt_2: the same as the first if None.
    """

    prompt_2: str | list[str] | None = None
    negative_prompt_2: str | list[str] | None = None


class Flux(Family):
    """FluxPipeline, and from a picture."""

    rounds_up = True

    @property
    def guided(self) -> bool:
        """False: the network takes the scale."""
        return False

    def network(self, request: SamplingRequest) -> nn.Module:
        """Return the transformer."""
        distilled = self.pipe.transformer.config.guidance_embeds
        return FluxNetwork(self.pipe.transformer, request.guidance_scale if distilled else None)

    def decoder(self, size: Size) -> Decoder:
        """Return the decoder."""
        config = self.pipe.vae.config
        return Decoder(self.pipe.vae, config.scaling_factor, config.shift_factor)

    def set_timesteps(self, request: SamplingRequest) -> Mapping[str, Any]:
        """Return the shift, and sigmas unless the scheduler makes its own."""
        _, height, width = self.latent_shape(request.size)
        timesteps: dict[str, Any] = {
            "mu": dynamic_shift(request.scheduler, (height // 2) * (width // 2))
        }
        if not request.scheduler.config.get("use_flow_sigmas"):
            timesteps["sigmas"] = linear_sigmas(request.num_inference_steps)
        return timesteps

    def latent_shape(self, size: Size) -> tuple[int, ...]:
        """Return (channels, height, width) of the latents before they are packed."""
        factor = self.pipe.vae_scale_factor
        default = self.pipe.default_sample_size * factor
        height = default if size.height is None else size.height
        width = default if size.width is None else size.width
        channels = self.pipe.transformer.config.in_channels // 4
        return channels, height // (2 * factor) * 2, width // (2 * factor) * 2

    def encode(self, request: PromptRequest) -> tuple[Conditioning, Conditioning]:
        """Return the embeddings of a prompt.

        There is a negative one only if a negative prompt is given, for ``true_cfg_scale``.
        """
        second, request = request.split(SecondPrompt)

        def encode(prompt: Any, prompt_2: Any) -> Conditioning:
            embeds, pooled, _ = self.pipe.encode_prompt(
                prompt, prompt_2, device=execution_device(self.pipe), **request.arguments
            )
            return {"encoder_hidden_states": embeds, "pooled_projections": pooled}

        negative = {}
        if request.guidance and request.negative_prompt is not None:
            negative = encode(request.negative_prompt, second.negative_prompt_2)
        return encode(request.prompt, second.prompt_2), negative
