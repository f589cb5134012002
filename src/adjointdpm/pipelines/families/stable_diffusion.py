"""Stable Diffusion 1.x and 2.x, and models distilled from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusers_private import execution_device
from ..family import Conditioning
from ..requests import PromptRequest, SamplingRequest
from .image_prompts import ImagePrompt
from .unets import UNetFamily


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


class StableDiffusion(UNetFamily):
    """StableDiffusionPipeline, from a picture too, and LatentConsistencyModelPipeline."""

    @property
    def guided(self) -> bool:
        """False where the UNet was distilled to take the guidance scale."""
        return self.pipe.unet.config.time_cond_proj_dim is None

    def unet(self) -> nn.Module:
        """Return what is called as the UNet."""
        unet: nn.Module = self.pipe.unet
        return unet

    def network(self, request: SamplingRequest) -> nn.Module:
        """Return the UNet, with the guidance scale as an input where it takes that."""
        if self.guided:
            return self.unet()
        embedding = self.pipe.get_guidance_scale_embedding(
            torch.tensor([request.guidance_scale - 1]),
            embedding_dim=self.pipe.unet.config.time_cond_proj_dim,
        )
        return GuidanceEmbeddedUNet(self.unet(), embedding.to(execution_device(self.pipe)))

    def encode(self, request: PromptRequest) -> tuple[Conditioning, Conditioning]:
        """Return the embeddings of a prompt, and of pictures; see `ImagePrompt`."""
        image_prompt, request = request.split(ImagePrompt)
        embeds = self.pipe.encode_prompt(
            request.prompt,
            device=execution_device(self.pipe),
            num_images_per_prompt=1,
            do_classifier_free_guidance=request.guidance,
            negative_prompt=request.negative_prompt,
            **request.arguments,
        )
        added = image_prompt.encode(self.pipe, len(embeds[0]), request.guidance)
        both = [
            {"encoder_hidden_states": each, **({"added_cond_kwargs": more} if more else {})}
            for each, more in zip(embeds, added, strict=True)
        ]
        return both[0], both[1]


class LatentConsistencyImageToImage(StableDiffusion):
    """LatentConsistencyModelImg2ImgPipeline."""

    def set_timesteps(self, request: SamplingRequest) -> Mapping[str, Any]:
        """Return the strength: the scheduler takes all steps, in the last part of the way."""
        return {"strength": request.strength}
