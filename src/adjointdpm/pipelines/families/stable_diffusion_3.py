"""Stable Diffusion 3 and 3.5: flow matching in a transformer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...decoding import Decoder
from ..family import Family, Parts, SamplingConfig, Size
from .shifting import dynamic_shift
from .transformers import Transformer, latent_shape


def take_apart(pipe: Any, config: SamplingConfig) -> Parts:
    """Return the network and the decoder of a StableDiffusion3Pipeline."""
    decoder = Decoder(pipe.vae, pipe.vae.config.scaling_factor, pipe.vae.config.shift_factor)
    timesteps = {}
    if config.scheduler.config.get("use_dynamic_shifting"):
        _, height, width = latent_shape(pipe, config.size)
        patch = pipe.transformer.config.patch_size
        length = (height // patch) * (width // patch)
        timesteps["mu"] = dynamic_shift(config.scheduler, length, max_shift=1.16)
    network = Transformer(pipe.transformer)
    return Parts(network, decoder, set_timesteps=timesteps, rounds_up=True)


def encode_prompt(
    pipe: Any,
    prompt: str | list[str],
    negative_prompt: str | list[str] | None,
    *,
    guidance: bool,
    size: Size,
    prompt_2: str | list[str] | None = None,
    prompt_3: str | list[str] | None = None,
    **arguments: Any,
) -> dict[str, Tensor]:
    """Return the conditioning of a prompt; see `adjointdpm.pipelines.encode_prompt`."""
    positive, negative, pooled, negative_pooled = pipe.encode_prompt(
        prompt,
        prompt_2,
        prompt_3,
        device=pipe._execution_device,
        do_classifier_free_guidance=guidance,
        negative_prompt=negative_prompt,
        **arguments,
    )
    cond = {"encoder_hidden_states": positive, "pooled_projections": pooled}
    if guidance:
        cond["negative_encoder_hidden_states"] = negative
        cond["negative_pooled_projections"] = negative_pooled
    return cond


STABLE_DIFFUSION_3 = Family(take_apart, latent_shape, encode_prompt)
