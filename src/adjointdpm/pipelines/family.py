"""What there is to know of a family of pipelines, so that one function can take any apart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..decoding import Decoder
from ..denoiser import GuidanceScale
from .image_to_image import to_latents
from .requests import PromptRequest, SamplingRequest, Size

Conditioning = dict[str, Any]
"""Arguments of a network by name."""


class Family(ABC):
    """A pipeline, as one of the family to which it belongs.

    Args:
        pipe: the pipeline.
    """

    rounds_up: bool = False
    """Whether a ``strength`` that asks for a part of a step gets a whole one, as image-to-image of
    SD3 and Flux does; elsewhere it gets none."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    @property
    def guided(self) -> bool:
        """Whether guidance is two passes of the network.

        False where the network takes the guidance scale as an input, or has none; then
        ``true_cfg_scale`` weighs two passes.
        """
        return True

    @abstractmethod
    def network(self, request: SamplingRequest) -> nn.Module:
        """Return the network.

        It is called as ``network(x, t, **cond)`` with latents of `latent_shape`, and returns a
        tensor of their shape (learned variances cut off, packing undone).

        Raises:
            ValueError: the pipeline samples in a way for which there is no plan.
        """

    def decoder(self, size: Size) -> Decoder:
        """Return the decoder from latents to pictures of a size in [0, 1]."""
        return Decoder(self.pipe.vae, self.pipe.vae.config.scaling_factor)

    @abstractmethod
    def latent_shape(self, size: Size) -> tuple[int, ...]:
        """Return the shape of one sample's latents, without batch."""

    def guidance_scale(self, request: SamplingRequest) -> GuidanceScale | None:
        """Return the guidance scale by the time where it changes on the way, else None."""
        return None

    def set_timesteps(self, request: SamplingRequest) -> Mapping[str, Any]:
        """Return further arguments of the scheduler's ``set_timesteps``, such as ``mu``."""
        return {}

    def encode(self, request: PromptRequest) -> tuple[Conditioning, Conditioning]:
        """Return the conditioning of a prompt and of its negative, by the same names.

        The negative one is left unread where the request has no guidance.

        Raises:
            ValueError: the pipeline takes no prompt.
        """
        raise ValueError(f"{type(self.pipe).__name__} is unconditional; it takes no prompt")

    def encode_prompt(self, request: PromptRequest) -> Conditioning:
        """Return the conditioning of a prompt with the negative one as ``negative_<name>``."""
        positive, negative = self.encode(request)
        if not request.guidance:
            return positive
        return {**positive, **{f"negative_{name}": value for name, value in negative.items()}}

    def encode_image(self, images: Tensor) -> Tensor:
        """Return the latents of pictures (batch, 3, height, width) in [0, 1]."""
        return to_latents(self.decoder(Size()), images)
