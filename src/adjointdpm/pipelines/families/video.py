"""What the pipelines of video transformers have in common."""

from __future__ import annotations

from torch import Tensor

from ...decoding import Decoder
from ..family import Conditioning, Family
from ..requests import PromptRequest


class VideoDecoder(Decoder):
    """Videos of latents: (batch, frames, channels, height, width), in [0, 1]."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return the autoencoder's videos of latents (batch, channels, frames, height, width)."""
        return super().decode(latents).transpose(1, 2)


class VideoFamily(Family):
    """Pipelines of videos from text."""

    def encode(self, request: PromptRequest) -> tuple[Conditioning, Conditioning]:
        """Return the embeddings of a prompt."""
        positive, negative = self.pipe.encode_prompt(
            request.prompt,
            request.negative_prompt,
            do_classifier_free_guidance=request.guidance,
            **request.arguments,
        )
        return {"encoder_hidden_states": positive}, {"encoder_hidden_states": negative}
