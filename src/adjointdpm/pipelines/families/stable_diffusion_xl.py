"""Stable Diffusion XL and its refiner: two text encoders, and sizes of pictures as conditioning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...decoding import Decoder
from ..diffusers_private import execution_device
from ..family import Conditioning
from ..requests import PromptRequest, Size
from .image_prompts import ImagePrompt
from .stable_diffusion import StableDiffusion


@dataclass(frozen=True)
class Sizes:
    """What SDXL is told of the picture besides the prompt.

    Args:
        original_size: (height, width) that the picture is to look like having been scaled from;
            that of the picture if None.
        crops_coords_top_left: (top, left) that it is to look like having been cropped at.
        target_size: (height, width) of the picture; that of the picture if None.
        negative_original_size: the same for the negative pass, if ``negative_target_size`` too.
        negative_crops_coords_top_left: the same for the negative pass.
        negative_target_size: the same for the negative pass, if ``negative_original_size`` too.
        aesthetic_score: in place of the target size where the pipeline requires it (the refiner).
        negative_aesthetic_score: the same for the negative pass.
    """

    original_size: Sequence[int] | None = None
    crops_coords_top_left: Sequence[int] = (0, 0)
    target_size: Sequence[int] | None = None
    negative_original_size: Sequence[int] | None = None
    negative_crops_coords_top_left: Sequence[int] = (0, 0)
    negative_target_size: Sequence[int] | None = None
    aesthetic_score: float = 6.0
    negative_aesthetic_score: float = 2.5

    def ids(self, pixels: Sequence[int], wants_score: bool) -> tuple[list[float], list[float]]:
        """Return the numbers for both passes.

        Args:
            pixels: (height, width) of the picture.
            wants_score: whether the scores stand in place of the target size.
        """
        original, target = self.original_size or pixels, self.target_size or pixels
        positive = original, self.crops_coords_top_left, target
        negative = positive
        if self.negative_original_size is not None and self.negative_target_size is not None:
            negative = (
                self.negative_original_size,
                self.negative_crops_coords_top_left,
                self.negative_target_size,
            )
        scores = self.aesthetic_score, self.negative_aesthetic_score
        first, second = (
            [*original, *crops, *([score] if wants_score else target)]
            for (original, crops, target), score in zip((positive, negative), scores, strict=True)
        )
        return first, second


class StableDiffusionXL(StableDiffusion):
    """StableDiffusionXLPipeline, from a picture too, and the refiner."""

    def decoder(self, size: Size) -> Decoder:
        """Return the decoder.

        Raises:
            ValueError: the autoencoder is one that overflows in half precision, and is in it.
        """
        vae = self.pipe.vae
        if vae.dtype == torch.float16 and vae.config.force_upcast:
            raise ValueError(
                "the autoencoder overflows in float16 (force_upcast in its config): call "
                "pipe.vae.to(torch.float32) before from_pipeline, and leave the UNet as it is"
            )
        mean, deviation = vae.config.latents_mean, vae.config.latents_std
        if mean is None or deviation is None:
            return super().decoder(size)
        deviations = torch.tensor(deviation, dtype=torch.float64).reshape(1, -1, 1, 1)
        means = torch.tensor(mean, dtype=torch.float64).reshape(1, -1, 1, 1)
        return Decoder(vae, vae.config.scaling_factor / deviations, means)

    def encode(self, request: PromptRequest) -> tuple[Conditioning, Conditioning]:
        """Return the conditioning of a prompt, of `Sizes`, and of pictures (`ImagePrompt`)."""
        image_prompt, request = request.split(ImagePrompt)
        sizes, request = request.split(Sizes)
        device = execution_device(self.pipe)
        positive, negative, pooled, negative_pooled = self.pipe.encode_prompt(
            request.prompt,
            device=device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=request.guidance,
            negative_prompt=request.negative_prompt,
            **request.arguments,
        )
        _, height, width = self.latent_shape(Size())
        factor = self.pixels_per_latent
        pixels = request.size.height or height * factor, request.size.width or width * factor
        ids = sizes.ids(pixels, bool(self.pipe.config.get("requires_aesthetics_score")))
        added = image_prompt.encode(self.pipe, len(positive), request.guidance)
        parts = zip((positive, negative), (pooled, negative_pooled), ids, added, strict=True)
        both = [
            {
                "encoder_hidden_states": embeds,
                "added_cond_kwargs": {
                    "text_embeds": pooled,
                    # Sizes stay whole numbers, which half precision would round.
                    "time_ids": torch.tensor([numbers], device=device).expand(len(positive), -1),
                    **more,
                },
            }
            for embeds, pooled, numbers, more in parts
        ]
        return both[0], both[1]
