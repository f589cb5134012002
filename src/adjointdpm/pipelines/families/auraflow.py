"""AuraFlowPipeline: text to image, flow matching in a transformer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..diffusers_private import execution_device
from ..family import Conditioning
from ..requests import PromptRequest, SamplingRequest, Size
from .transformers import Transformer, TransformerFamily

SIDE = 1024
"""Of a picture by default; the size in the transformer's config is not that of the pipeline."""


class AuraFlowNetwork(Transformer):
    """AuraFlow's transformer, whose time is in [0, 1] and of the dtype of its latents."""

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """Return the velocity for latents ``x`` of shape (batch, channels, height, width)."""
        return super().forward(x, (t / 1000).to(x.dtype), **cond)


class AuraFlow(TransformerFamily):
    """AuraFlowPipeline."""

    def network(self, request: SamplingRequest) -> nn.Module:
        """Return the transformer."""
        return AuraFlowNetwork(self.pipe.transformer)

    def latent_shape(self, size: Size) -> tuple[int, ...]:
        """Return (channels, height, width) of the latents."""
        height = SIDE if size.height is None else size.height
        width = SIDE if size.width is None else size.width
        return super().latent_shape(Size(height, width))

    def encode(self, request: PromptRequest) -> tuple[Conditioning, Conditioning]:
        """Return the embeddings of a prompt."""
        positive, _, negative, _ = self.pipe.encode_prompt(
            request.prompt,
            request.negative_prompt,
            request.guidance,
            device=execution_device(self.pipe),
            **request.arguments,
        )
        return {"encoder_hidden_states": positive}, {"encoder_hidden_states": negative}
