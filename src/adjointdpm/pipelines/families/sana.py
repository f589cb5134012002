"""SanaPipeline: text to image in a linear transformer, on latents that are 32 times smaller.

Pictures have the size that is asked for: there is no binning of resolutions, as in the pipeline
with ``use_resolution_binning=False``.
"""

from __future__ import annotations

from torch import nn

from ..requests import SamplingRequest
from .transformers import MaskedTextFamily, Transformer


class Sana(MaskedTextFamily):
    """SanaPipeline."""

    def network(self, request: SamplingRequest) -> nn.Module:
        """Return the transformer."""
        return Transformer(self.pipe.transformer, self.pipe.transformer.config.timestep_scale)
