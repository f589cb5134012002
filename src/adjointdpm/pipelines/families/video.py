"""What the pipelines of video transformers have in common."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...decoding import Decoder
from ..family import Size


class VideoDecoder(Decoder):
    """Videos of latents: (batch, frames, channels, height, width), in [0, 1]."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return the autoencoder's videos of latents (batch, channels, frames, height, width)."""
        return super().decode(latents).transpose(1, 2)


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
    positive, negative = pipe.encode_prompt(
        prompt, negative_prompt, do_classifier_free_guidance=guidance, **arguments
    )
    cond = {"encoder_hidden_states": positive}
    return {**cond, "negative_encoder_hidden_states": negative} if guidance else cond
