"""Stable Diffusion XL and its refiner: two text encoders, and sizes of pictures as conditioning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...decoding import Decoder
from ..family import Family, Parts, SamplingConfig, Size
from .ip_adapter import image_prompt
from .stable_diffusion import latent_shape, unet_parts


def take_apart(pipe: Any, config: SamplingConfig) -> Parts:
    """Return the network and the decoder of a StableDiffusionXLPipeline."""
    return unet_parts(pipe, pipe.unet, decoder(pipe), config)


def decoder(pipe: Any) -> Decoder:
    """Return the decoder of a StableDiffusionXLPipeline.

    Raises:
        ValueError: the autoencoder is one that overflows in half precision, and is in it.
    """
    vae = pipe.vae
    if vae.dtype == torch.float16 and vae.config.force_upcast:
        raise ValueError(
            "the autoencoder overflows in float16 (force_upcast in its config): call "
            "pipe.vae.to(torch.float32) before from_pipeline, and leave the UNet as it is"
        )
    mean, deviation = vae.config.latents_mean, vae.config.latents_std
    if mean is None or deviation is None:
        return Decoder(vae, vae.config.scaling_factor)
    deviations = torch.tensor(deviation, dtype=torch.float64).reshape(1, -1, 1, 1)
    means = torch.tensor(mean, dtype=torch.float64).reshape(1, -1, 1, 1)
    return Decoder(vae, vae.config.scaling_factor / deviations, means)


def encode_prompt(
    pipe: Any,
    prompt: str | list[str],
    negative_prompt: str | list[str] | None,
    *,
    guidance: bool,
    size: Size,
    original_size: Sequence[int] | None = None,
    crops_coords_top_left: Sequence[int] = (0, 0),
    target_size: Sequence[int] | None = None,
    negative_original_size: Sequence[int] | None = None,
    negative_crops_coords_top_left: Sequence[int] = (0, 0),
    negative_target_size: Sequence[int] | None = None,
    aesthetic_score: float = 6.0,
    negative_aesthetic_score: float = 2.5,
    ip_adapter_image: Any = None,
    ip_adapter_image_embeds: list[Tensor] | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Return the conditioning of a prompt and of sizes; see `adjointdpm.pipelines.encode_prompt`.

    Args:
        pipe: the pipeline.
        prompt: one prompt, or one for each sample.
        negative_prompt: what guidance leads away from.
        guidance: whether the negative conditioning is needed.
        size: of the picture; what ``original_size`` and ``target_size`` are by default.
        original_size: (height, width) that the picture is to look like having been scaled from.
        crops_coords_top_left: (top, left) that it is to look like having been cropped at.
        target_size: (height, width) of the picture.
        negative_original_size: the same for the negative pass, if ``negative_target_size`` too.
        negative_crops_coords_top_left: the same for the negative pass.
        negative_target_size: the same for the negative pass, if ``negative_original_size`` too.
        aesthetic_score: in place of the target size where the pipeline requires it (the refiner).
        negative_aesthetic_score: the same for the negative pass.
        ip_adapter_image: see `image_prompt`.
        ip_adapter_image_embeds: see `image_prompt`.
        **arguments: of the pipeline's own ``encode_prompt``.
    """
    positive, negative, pooled, negative_pooled = pipe.encode_prompt(
        prompt,
        device=pipe._execution_device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=guidance,
        negative_prompt=negative_prompt,
        **arguments,
    )
    added, negative_added = image_prompt(
        pipe,
        len(positive),
        guidance=guidance,
        ip_adapter_image=ip_adapter_image,
        ip_adapter_image_embeds=ip_adapter_image_embeds,
    )

    def time_ids(
        original: Sequence[int], crops: Sequence[int], target: Sequence[int], score: float
    ) -> Tensor:
        last = [score] if pipe.config.get("requires_aesthetics_score") else target
        # Sizes stay whole numbers, which half precision would round.
        ids = torch.tensor([[*original, *crops, *last]], device=pipe._execution_device)
        return ids.expand(len(positive), -1)

    pixels = _pixels(pipe, size)
    sizes = (original_size or pixels, crops_coords_top_left, target_size or pixels)
    cond = {
        "encoder_hidden_states": positive,
        "added_cond_kwargs": {
            "text_embeds": pooled,
            "time_ids": time_ids(*sizes, aesthetic_score),
            **added,
        },
    }
    if not guidance:
        return cond
    if negative_original_size is not None and negative_target_size is not None:
        sizes = (negative_original_size, negative_crops_coords_top_left, negative_target_size)
    return {
        **cond,
        "negative_encoder_hidden_states": negative,
        "negative_added_cond_kwargs": {
            "text_embeds": negative_pooled,
            "time_ids": time_ids(*sizes, negative_aesthetic_score),
            **negative_added,
        },
    }


def _pixels(pipe: Any, size: Size) -> tuple[int, int]:
    """Return (height, width) of the pictures."""
    _, height, width = latent_shape(pipe, Size())
    scale = pipe.vae_scale_factor
    return size.height or height * scale, size.width or width * scale


STABLE_DIFFUSION_XL = Family(take_apart, latent_shape, encode_prompt)
