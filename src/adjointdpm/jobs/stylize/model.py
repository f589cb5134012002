"""A pipeline and those of its weights that are optimised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...pipelines import ATTENTION, encode_prompt
from ...setup import Model
from ...variables import Adapter, PipelineWeights
from .config import StylizeConfig

TARGETS = (*ATTENTION, "conv1", "conv2")
"""Where the adapter is: texture is made by convolutions more than by attention."""
BATCH = 16
"""Pictures drawn at once where no gradient is taken."""


class StylizedModel:
    """A pipeline and those of its weights that are optimised.

    Args:
        config: settings.
        model: the pipeline, which gets an adapter or is changed.
    """

    def __init__(self, config: StylizeConfig, model: Model) -> None:
        self.config, self.model = config, model
        self.weights: PipelineWeights
        if config.trainable is None:
            self.weights = Adapter(
                model.pipe,
                config.rank,
                lora_alpha=config.lora_alpha,
                target_modules=config.target_modules or TARGETS,
                seed=config.seed,
                fully_shard=config.fully_shard,
            )
        else:
            self.weights = PipelineWeights(
                model.pipe, config.trainable, fully_shard=config.fully_shard
            )

    def draw(self, noise: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return pictures (batch, 3, height, width) in [0, 1].

        Args:
            noise: (batch, ...) latents.
            prompts: one for each.
        """
        model = self.model
        return model.decode(model.sample(noise, **self.encode(prompts)))

    def encode(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Return the conditioning of prompts, with a graph where the encoder is trained."""
        return encode_prompt(self.model.pipe, list(prompts), guidance=self.model.guided)

    @torch.no_grad()
    def draw_many(self, noise: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the same on the CPU, drawn a few at a time and without a graph."""
        parts = [slice(i, i + BATCH) for i in range(0, len(prompts), BATCH)]
        return torch.cat([self.draw(noise[part], prompts[part]).cpu() for part in parts])

    def save(self, folder: Path, settings: Mapping[str, Any]) -> Path:
        """Save what was optimised; return its file or folder."""
        provenance = self.model.provenance
        return self.weights.save(folder, provenance=provenance, settings=settings)
