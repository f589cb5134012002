"""PixArtAlphaPipeline and PixArtSigmaPipeline: text to image in a transformer.

Pictures have the size that is asked for: there is no binning of resolutions, as in the pipelines
with ``use_resolution_binning=False``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..requests import SamplingRequest
from .transformers import MaskedTextFamily, Transformer


class PixArtNetwork(Transformer):
    """PixArt's transformer, told the size of the pictures where it was trained for that.

    Args:
        transformer: the transformer.
        vae_scale_factor: pixels for each latent, along one side.
    """

    def __init__(self, transformer: nn.Module, vae_scale_factor: int) -> None:
        super().__init__(transformer)
        self.vae_scale_factor = vae_scale_factor

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """Return the prediction for latents ``x`` of shape (batch, channels, height, width)."""
        height, width = (side * self.vae_scale_factor for side in x.shape[2:])
        sides = [x.new_full((len(x), 1), side) for side in (height, width)]
        added = {
            "resolution": torch.cat(sides, dim=1),
            "aspect_ratio": x.new_full((len(x), 1), height / width),
        }
        return super().forward(x, t, added_cond_kwargs=added, **cond)


class PixArt(MaskedTextFamily):
    """PixArtAlphaPipeline and PixArtSigmaPipeline."""

    def network(self, request: SamplingRequest) -> nn.Module:
        """Return the transformer."""
        return PixArtNetwork(self.pipe.transformer, self.pipe.vae_scale_factor)
