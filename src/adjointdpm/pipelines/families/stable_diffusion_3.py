"""Stable Diffusion 3 and 3.5: flow matching in a transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...decoding import Decoder
from ..diffusers_private import execution_device
from ..family import Conditioning
from ..requests import PromptRequest, SamplingRequest, Size
from .shifting import dynamic_shift
from .transformers import Transformer, TransformerFamily


@dataclass(frozen=True)
class FurtherPrompts:
    """Other words for the second and the third text encoder; the same as the first if None."""

    prompt_2: str | list[str] | None = None
    prompt_3: str | list[str] | None = None


class StableDiffusion3(TransformerFamily):
    """StableDiffusion3Pipeline, and from a picture."""

    rounds_up = True

    def network(self, request: SamplingRequest) -> nn.Module:
        """Return the transformer."""
        return Transformer(self.pipe.transformer)

    def decoder(self, size: Size) -> Decoder:
        """Return the decoder."""
        config = self.pipe.vae.config
        return Decoder(self.pipe.vae, config.scaling_factor, config.shift_factor)

    def set_timesteps(self, request: SamplingRequest) -> Mapping[str, Any]:
        """Return the shift, where the scheduler has one that depends on the size."""
        if not request.scheduler.config.get("use_dynamic_shifting"):
            return {}
        _, height, width = self.latent_shape(request.size)
        patch = self.pipe.transformer.config.patch_size
        length = (height // patch) * (width // patch)
        return {"mu": dynamic_shift(request.scheduler, length, max_shift=1.16)}

    def encode(self, request: PromptRequest) -> tuple[Conditioning, Conditioning]:
        """Return the embeddings of a prompt."""
        further, request = request.split(FurtherPrompts)
        positive, negative, pooled, negative_pooled = self.pipe.encode_prompt(
            request.prompt,
            further.prompt_2,
            further.prompt_3,
            device=execution_device(self.pipe),
            do_classifier_free_guidance=request.guidance,
            negative_prompt=request.negative_prompt,
            **request.arguments,
        )
        return (
            {"encoder_hidden_states": positive, "pooled_projections": pooled},
            {"encoder_hidden_states": negative, "pooled_projections": negative_pooled},
        )
