"""What pipelines with a transformer in place of a UNet have in common."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ..diffusers_private import execution_device
from ..family import Conditioning, Family
from ..requests import PromptRequest, Size


class Transformer(nn.Module):
    """A transformer, called as samplers call networks.

    Args:
        transformer: takes the time by name; channels beyond those of its input are a learned
            variance, which no sampler here uses, and are cut off.
        timestep_scale: what the scheduler's time is multiplied with.
    """

    def __init__(self, transformer: nn.Module, timestep_scale: float = 1.0) -> None:
        super().__init__()
        self.transformer = transformer
        self.timestep_scale = timestep_scale

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """Return the prediction for latents ``x`` of shape (batch, channels, height, width)."""
        t = t * self.timestep_scale
        output = self.transformer(x, timestep=t, return_dict=False, **cond)[0]
        return output[:, : x.shape[1]]


class TransformerFamily(Family):
    """Pipelines whose latents have the size that their transformer was trained on by default."""

    def latent_shape(self, size: Size) -> tuple[int, ...]:
        """Return (channels, height, width) of what the transformer takes."""
        config, factor = self.pipe.transformer.config, self.pipe.vae_scale_factor
        height = config.sample_size if size.height is None else size.height // factor
        width = config.sample_size if size.width is None else size.width // factor
        return config.in_channels, height, width


class MaskedTextFamily(TransformerFamily):
    """Pipelines whose text has an attention mask."""

    def encode(self, request: PromptRequest) -> tuple[Conditioning, Conditioning]:
        """Return embeddings and masks; what is not given is as in the pipeline's call."""
        for name in ("clean_caption", "complex_human_instruction"):
            parameter = inspect.signature(type(self.pipe).__call__).parameters.get(name)
            if parameter is not None:
                request = request.with_default(name, parameter.default)
        encoded = self.pipe.encode_prompt(
            request.prompt,
            request.guidance,
            negative_prompt="" if request.negative_prompt is None else request.negative_prompt,
            device=execution_device(self.pipe),
            **request.arguments,
        )
        return masked_text(*encoded)


def masked_text(
    embeds: Tensor, mask: Tensor, negative_embeds: Tensor | None, negative_mask: Tensor | None
) -> tuple[Conditioning, Conditioning]:
    """Return text with its attention mask, and the negative one, by the transformers' names."""
    return (
        {"encoder_hidden_states": embeds, "encoder_attention_mask": mask},
        {"encoder_hidden_states": negative_embeds, "encoder_attention_mask": negative_mask},
    )


def pack(latents: Tensor) -> Tensor:
    """Return the tokens of latents, (batch, height / 2 * width / 2, 4 * channels)."""
    return functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Return the latents of ``height`` by ``width`` tokens; the inverse of `pack`."""
    return functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (height, width)), 2)
