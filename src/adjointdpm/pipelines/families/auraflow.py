"""AuraFlowPipeline: text to image, flow matching in a transformer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...decoding import Decoder
from ..family import Family, Parts, SamplingConfig, Size
from .transformers import Transformer
from .transformers import latent_shape as shape_of

SIDE = 1024
"""Of a picture by default; the size in the transformer's config is not that of the pipeline."""


class AuraFlowNetwork(Transformer):
    """AuraFlow's transformer, whose time is in [0, 1] and of the dtype of its latents."""

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """Return the velocity for latents ``x`` of shape (batch, channels, height, width)."""
        return super().forward(x, (t / 1000).to(x.dtype), **cond)


def take_apart(pipe: Any, config: SamplingConfig) -> Parts:
    """Return the network and the decoder of an AuraFlowPipeline."""
    decoder = Decoder(pipe.vae, pipe.vae.config.scaling_factor)
    return Parts(AuraFlowNetwork(pipe.transformer), decoder)


def latent_shape(pipe: Any, size: Size) -> tuple[int, ...]:
    """Return (channels, height, width) of the latents."""
    height = SIDE if size.height is None else size.height
    width = SIDE if size.width is None else size.width
    return shape_of(pipe, Size(height, width))


def encode_prompt(
    pipe: Any,
    prompt: str | list[str],
    negative_prompt: str | list[str] | None,
    *,
    guidance: bool,
    size: Size,
    **arguments: Any,
) -> dict[str, Tensor]:
    """Return the conditioning of a prompt; see `adjointdpm.pipelines.encode_prompt`."""
    embeds, _, negative_embeds, _ = pipe.encode_prompt(
        prompt, negative_prompt, guidance, device=pipe._execution_device, **arguments
    )
    cond = {"encoder_hidden_states": embeds}
    return {**cond, "negative_encoder_hidden_states": negative_embeds} if guidance else cond


AURAFLOW = Family(take_apart, latent_shape, encode_prompt)
