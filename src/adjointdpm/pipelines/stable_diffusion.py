"""StableDiffusionPipeline: Stable Diffusion 1.x and 2.x, and models distilled from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..sampler import Sampler
from .decode import Decoder
from .sampling import SamplingConfig, build_sampler


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


def adapt(pipe: Any, config: SamplingConfig) -> tuple[Sampler, Decoder]:
    """Return the sampler and the decoder of a StableDiffusionPipeline."""
    network, dim = pipe.unet, pipe.unet.config.time_cond_proj_dim
    if dim is not None:
        scale = torch.tensor([config.guidance_scale - 1])
        embedding = pipe.get_guidance_scale_embedding(scale, embedding_dim=dim)
        network = GuidanceEmbeddedUNet(pipe.unet, embedding.to(pipe.device))
        config = replace(config, guidance_scale=1.0)
    return build_sampler(network, config), Decoder(pipe.vae, pipe.vae.config.scaling_factor)


def encode_prompt(
    pipe: Any,
    prompt: str | list[str],
    negative_prompt: str | list[str] | None = None,
    *,
    guidance: bool = True,
) -> dict[str, Tensor]:
    """Return the conditioning of a prompt; see `adjointdpm.pipelines.encode_prompt`."""
    positive, negative = pipe.encode_prompt(
        prompt,
        device=pipe.device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=guidance,
        negative_prompt=negative_prompt,
    )
    cond = {"encoder_hidden_states": positive}
    return {**cond, "negative_encoder_hidden_states": negative} if guidance else cond
