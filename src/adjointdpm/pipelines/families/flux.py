"""Flux: flow matching in a transformer that takes the guidance scale as an input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...decoding import Decoder
from ..family import Family, Parts, SamplingConfig, Size
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


def take_apart(pipe: Any, config: SamplingConfig) -> Parts:
    """Return the network and the decoder of a FluxPipeline."""
    distilled = pipe.transformer.config.guidance_embeds
    network = FluxNetwork(pipe.transformer, config.guidance_scale if distilled else None)
    decoder = Decoder(pipe.vae, pipe.vae.config.scaling_factor, pipe.vae.config.shift_factor)
    _, height, width = latent_shape(pipe, config.size)
    length = (height // 2) * (width // 2)
    timesteps: dict[str, Any] = {"mu": dynamic_shift(config.scheduler, length)}
    if not config.scheduler.config.get("use_flow_sigmas"):
        timesteps["sigmas"] = linear_sigmas(config.num_inference_steps)
    return Parts(network, decoder, guided=False, set_timesteps=timesteps, rounds_up=True)


def latent_shape(pipe: Any, size: Size) -> tuple[int, ...]:
    """Return (channels, height, width) of the latents before they are packed."""
    factor = pipe.vae_scale_factor
    default = pipe.default_sample_size * factor
    height = default if size.height is None else size.height
    width = default if size.width is None else size.width
    channels = pipe.transformer.config.in_channels // 4
    return channels, height // (2 * factor) * 2, width // (2 * factor) * 2


def encode_prompt(
    pipe: Any,
    prompt: str | list[str],
    negative_prompt: str | list[str] | None,
    *,
    guidance: bool,
    size: Size,
    prompt_2: str | list[str] | None = None,
    negative_prompt_2: str | list[str] | None = None,
    **arguments: Any,
) -> dict[str, Tensor]:
    """Return the conditioning of a prompt; see `adjointdpm.pipelines.encode_prompt`.

    There is a negative one only if a negative prompt is given, for ``true_cfg_scale``.
    """

    def encode(prompt: str | list[str], prompt_2: str | list[str] | None, prefix: str = "") -> Any:
        embeds, pooled, _ = pipe.encode_prompt(
            prompt, prompt_2, device=pipe._execution_device, **arguments
        )
        names = f"{prefix}encoder_hidden_states", f"{prefix}pooled_projections"
        return dict(zip(names, (embeds, pooled), strict=True))

    cond = encode(prompt, prompt_2)
    if guidance and negative_prompt is not None:
        cond |= encode(negative_prompt, negative_prompt_2, "negative_")
    return cond


FLUX = Family(take_apart, latent_shape, encode_prompt)
