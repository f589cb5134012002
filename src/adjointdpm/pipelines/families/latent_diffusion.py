"""Latent diffusion (arXiv 2112.10752): LDMTextToImagePipeline, and LDMPipeline without a prompt."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...decoding import Decoder
from ..family import Family, Parts, SamplingConfig, Size
from .stable_diffusion import unet_shape

TEXT_LENGTH = 77
"""Tokens of a prompt, as in the pipeline's call."""


def decoder(pipe: Any) -> Decoder:
    """Return the decoder; gradients pass straight through the quantisation of latents, if any."""
    return Decoder(pipe.vqvae, pipe.vqvae.config.scaling_factor)


def take_apart(pipe: Any, config: SamplingConfig) -> Parts:
    """Return the network and the decoder of a LDMTextToImagePipeline."""
    return Parts(pipe.unet, decoder(pipe))


def take_apart_unconditional(pipe: Any, config: SamplingConfig) -> Parts:
    """Return the network and the decoder of a LDMPipeline."""
    return Parts(pipe.unet, decoder(pipe), guided=False)


def latent_shape(pipe: Any, size: Size) -> tuple[int, ...]:
    """Return (channels, height, width) of the latents."""
    return unet_shape(pipe.unet, size, 2 ** (len(pipe.vqvae.config.block_out_channels) - 1))


def encode_prompt(
    pipe: Any,
    prompt: str | list[str],
    negative_prompt: str | list[str] | None,
    *,
    guidance: bool,
    size: Size,
) -> dict[str, Tensor]:
    """Return the conditioning of a prompt; see `adjointdpm.pipelines.encode_prompt`."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    cond = {"encoder_hidden_states": _encode(pipe, prompts)}
    if not guidance:
        return cond
    if not isinstance(negative_prompt, list):
        negative_prompt = [negative_prompt or ""] * len(prompts)
    return {**cond, "negative_encoder_hidden_states": _encode(pipe, negative_prompt)}


def _encode(pipe: Any, prompts: list[str]) -> Tensor:
    tokens = pipe.tokenizer(
        prompts,
        padding="max_length",
        max_length=TEXT_LENGTH,
        truncation=True,
        return_tensors="pt",
    )
    embeds: Tensor = pipe.bert(tokens.input_ids.to(pipe._execution_device))[0]
    return embeds


LATENT_DIFFUSION = Family(take_apart, latent_shape, encode_prompt)
UNCONDITIONAL_LATENT_DIFFUSION = Family(take_apart_unconditional, latent_shape)
