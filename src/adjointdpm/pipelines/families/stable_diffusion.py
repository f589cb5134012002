"""Stable Diffusion 1.x and 2.x, and models distilled from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...decoding import Decoder
from ..family import Family, Parts, SamplingConfig, Size
from .ip_adapter import image_prompt


class GuidanceEmbeddedUNet(nn.Module):
    """A UNet that takes the guidance scale as an input (distilled models, arXiv 2310.04378).

    Args:
        unet: the UNet.
        embedding: (1, dim) embedding of the guidance scale.
    """

    embedding: Tensor

    def __init__(self, unet: nn.Module, embedding: Tensor) -> None:
        super().__init__()
        self.unet = unet
        self.register_buffer("embedding", embedding, persistent=False)

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Any:
        """Return the UNet's output with the embedding beside its conditioning."""
        embedding = self.embedding.to(x.dtype).expand(len(x), -1)
        return self.unet(x, t, timestep_cond=embedding, **cond)


def take_apart(pipe: Any, config: SamplingConfig) -> Parts:
    """Return the network and the decoder of a StableDiffusionPipeline."""
    return unet_parts(pipe, pipe.unet, decoder(pipe), config)


def decoder(pipe: Any) -> Decoder:
    """Return the decoder of a StableDiffusionPipeline."""
    return Decoder(pipe.vae, pipe.vae.config.scaling_factor)


def unet_parts(pipe: Any, network: nn.Module, decoder: Decoder, config: SamplingConfig) -> Parts:
    """Return the parts for a network around the UNet of ``pipe``, with embedded guidance or not.

    Args:
        pipe: the pipeline.
        network: the UNet, or a module that takes its arguments.
        decoder: from latents to pictures.
        config: the settings, of which the guidance scale matters here.
    """
    dim = pipe.unet.config.time_cond_proj_dim
    if dim is None:
        return Parts(network, decoder)
    scale = torch.tensor([config.guidance_scale - 1])
    embedding = pipe.get_guidance_scale_embedding(scale, embedding_dim=dim)
    embedded = GuidanceEmbeddedUNet(network, embedding.to(pipe._execution_device))
    return Parts(embedded, decoder, guided=False)


def latent_shape(pipe: Any, size: Size) -> tuple[int, ...]:
    """Return (channels, height, width) of the latents of a StableDiffusionPipeline."""
    return unet_shape(pipe.unet, size, pipe.vae_scale_factor)


def unet_shape(unet: Any, size: Size, factor: int) -> tuple[int, int, int]:
    """Return (channels, height, width) of what a UNet takes, by default what it was trained on.

    Args:
        unet: the UNet.
        size: of the pictures.
        factor: how many pixels a latent is wide.
    """
    default = unet.config.sample_size
    default_height, default_width = (default, default) if isinstance(default, int) else default
    height = default_height if size.height is None else size.height // factor
    width = default_width if size.width is None else size.width // factor
    return unet.config.in_channels, height, width


def encode_prompt(
    pipe: Any,
    prompt: str | list[str],
    negative_prompt: str | list[str] | None,
    *,
    guidance: bool,
    size: Size,
    ip_adapter_image: Any = None,
    ip_adapter_image_embeds: list[Tensor] | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Return the conditioning of a prompt; see `adjointdpm.pipelines.encode_prompt`."""
    positive, negative = pipe.encode_prompt(
        prompt,
        device=pipe._execution_device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=guidance,
        negative_prompt=negative_prompt,
        **arguments,
    )
    cond = {"encoder_hidden_states": positive}
    if guidance:
        cond["negative_encoder_hidden_states"] = negative
    added, negative_added = image_prompt(
        pipe,
        len(positive),
        guidance=guidance,
        ip_adapter_image=ip_adapter_image,
        ip_adapter_image_embeds=ip_adapter_image_embeds,
    )
    if added:
        cond["added_cond_kwargs"] = added
    if negative_added:
        cond["negative_added_cond_kwargs"] = negative_added
    return cond


STABLE_DIFFUSION = Family(take_apart, latent_shape, encode_prompt)


def take_apart_consistency(pipe: Any, config: SamplingConfig) -> Parts:
    """Return the network and the decoder of a LatentConsistencyModelImg2ImgPipeline.

    Its scheduler takes all of the steps, and takes them in the last part of the way.
    """
    return replace(take_apart(pipe, config), set_timesteps={"strength": config.strength})


LATENT_CONSISTENCY_IMAGE_TO_IMAGE = Family(take_apart_consistency, latent_shape, encode_prompt)
