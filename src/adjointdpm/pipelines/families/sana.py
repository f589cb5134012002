"""SanaPipeline: text to image in a linear transformer, on latents that are 32 times smaller.

Pictures have the size that is asked for: there is no binning of resolutions, as in the pipeline
with ``use_resolution_binning=False``.
"""

from __future__ import annotations

from typing import Any

from ...decoding import Decoder
from ..family import Family, Parts, SamplingConfig
from .transformers import Transformer, encode_masked_prompt, latent_shape


def take_apart(pipe: Any, config: SamplingConfig) -> Parts:
    """Return the network and the decoder of a SanaPipeline."""
    network = Transformer(pipe.transformer, pipe.transformer.config.timestep_scale)
    return Parts(network, Decoder(pipe.vae, pipe.vae.config.scaling_factor))


SANA = Family(take_apart, latent_shape, encode_masked_prompt)
