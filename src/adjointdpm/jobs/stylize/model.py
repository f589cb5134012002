"""A pipeline and those of its weights that are optimised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...formats import Provenance
from ...gradients import Exact, GradientMethod
from ...pipelines import ATTENTION, encode_prompt, from_pipeline, latent_shape
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
        pipe: the pipeline, which gets an adapter or is changed.
        device: where it is.
        gradient: the gradient method; `Exact` by default.
    """

    def __init__(
        self,
        config: StylizeConfig,
        pipe: Any,
        device: torch.device,
        gradient: GradientMethod | None = None,
    ) -> None:
        self.config, self.pipe, self.device = config, pipe, device
        self.weights: PipelineWeights
        if config.trainable is None:
            self.weights = Adapter(
                pipe,
                config.rank,
                lora_alpha=config.lora_alpha,
                target_modules=config.target_modules or TARGETS,
                seed=config.seed,
            )
        else:
            self.weights = PipelineWeights(pipe, config.trainable)
        self.sampler, self.decode = from_pipeline(
            pipe,
            config.num_inference_steps,
            config.guidance_scale,
            gradient=gradient or Exact(memory_budget=config.memory_budget),
        )

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Return standard-normal latents on the CPU, the same for every device."""
        return torch.randn(latent_shape(self.pipe, count), generator=generator)

    def encode(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Return the conditioning of prompts."""
        return encode_prompt(self.pipe, list(prompts), guidance=self.config.guidance_scale > 1)

    def draw(self, noise: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return pictures (batch, 3, height, width) in [0, 1].

        Args:
            noise: (batch, ...) latents, on any device.
            prompts: one for each.
        """
        return self.decode(self.sampler(noise.to(self.device), **self.encode(prompts)))

    @torch.no_grad()
    def draw_many(self, noise: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the same on the CPU, drawn a few at a time and without a graph."""
        parts = [slice(i, i + BATCH) for i in range(0, len(prompts), BATCH)]
        return torch.cat([self.draw(noise[part], prompts[part]).cpu() for part in parts])

    def save(self, folder: Path, settings: Mapping[str, Any]) -> Path:
        """Save what was optimised; return its file or folder."""
        embedded = self.config.pretrained_model_name_or_path is None
        known = "the embedded model of adjointdpm" if embedded else None
        provenance = Provenance.of(self.pipe, base_model=known)
        return self.weights.save(folder, provenance=provenance, settings=settings)
