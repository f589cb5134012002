"""What pipelines with a transformer in place of a UNet have in common."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ..family import Size


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


def latent_shape(pipe: Any, size: Size) -> tuple[int, ...]:
    """Return (channels, height, width) of the latents of a pipeline with a transformer."""
    config, factor = pipe.transformer.config, pipe.vae_scale_factor
    height = config.sample_size if size.height is None else size.height // factor
    width = config.sample_size if size.width is None else size.width // factor
    return config.in_channels, height, width


def pack(latents: Tensor) -> Tensor:
    """Return the tokens of latents, (batch, height / 2 * width / 2, 4 * channels)."""
    return functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Return the latents of ``height`` by ``width`` tokens; the inverse of `pack`."""
    return functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (height, width)), 2)


def encode_masked_prompt(
    pipe: Any,
    prompt: str | list[str],
    negative_prompt: str | list[str] | None,
    *,
    guidance: bool,
    size: Size,
    **arguments: Any,
) -> dict[str, Tensor]:
    """Return the conditioning of a prompt where the text has an attention mask.

    What is not given is as in the pipeline's call; see `adjointdpm.pipelines.encode_prompt`.
    """
    for name in ("clean_caption", "complex_human_instruction"):
        parameter = inspect.signature(type(pipe).__call__).parameters.get(name)
        if parameter is not None:
            arguments.setdefault(name, parameter.default)
    embeds, mask, negative_embeds, negative_mask = pipe.encode_prompt(
        prompt,
        guidance,
        negative_prompt="" if negative_prompt is None else negative_prompt,
        device=pipe._execution_device,
        **arguments,
    )
    cond = {"encoder_hidden_states": embeds, "encoder_attention_mask": mask}
    if guidance:
        cond["negative_encoder_hidden_states"] = negative_embeds
        cond["negative_encoder_attention_mask"] = negative_mask
    return cond
