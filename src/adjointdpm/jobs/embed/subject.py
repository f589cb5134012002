"""A pipeline with the word that it is taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...assets import Default
from ...formats import Provenance
from ...gradients import Exact, GradientMethod
from ...pipelines import freeze, from_pipeline, latent_shape, load_pipeline
from ...variables import PromptConditioning, Word
from .config import EmbedConfig

BATCHES = 4
"""Batches of the updates that are drawn at once where no gradient is taken, in as much memory."""


class Subject:
    """What is taught: draws pictures of prompts with the word, differentiably.

    Args:
        config: settings.
        default: the embedded model, where it is the one.
        device: where to put the pipeline.
        gradient: the gradient method; `Exact` by default.
    """

    def __init__(
        self,
        config: EmbedConfig,
        default: Default | None,
        device: torch.device,
        gradient: GradientMethod | None = None,
    ) -> None:
        self.config, self.device = config, device
        if config.pretrained_model_name_or_path is None:
            assert default is not None
            self.pipe = default.pipeline
        else:
            pipe = load_pipeline(config.pretrained_model_name_or_path, dtype=torch.float32)
            self.pipe = freeze(pipe.to(device))
        self.sampler, self.decode = from_pipeline(
            self.pipe,
            config.num_inference_steps,
            config.guidance_scale,
            gradient=gradient or Exact(memory_budget=config.memory_budget),
        )
        self.templates, self.validation_templates = _templates(config, default)
        self._guidance = config.guidance_scale > 1
        start = config.initializer_token or _generic_noun(default)
        self.word: Word | PromptConditioning
        if config.variable == "word":
            self.word = Word(self.pipe, config.placeholder_token, start, config.num_vectors)
        else:
            prompt = self.templates[0].replace("{}", start)
            self.word = PromptConditioning(self.pipe, prompt, guidance=self._guidance)
            self.templates = self.validation_templates = self.templates[:1]

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one latent."""
        return latent_shape(self.pipe)[1:]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is optimised, by name."""
        return self.word.tensors

    def draw(self, noise: Tensor, templates: Sequence[str]) -> Tensor:
        """Return pictures (batch, 3, height, width) in [0, 1].

        Args:
            noise: (batch, ...) latents, on any device.
            templates: one for each.
        """
        prompts = [t.replace("{}", self.config.placeholder_token) for t in templates]
        cond = self.word.encode(prompts, guidance=self._guidance)
        return self.decode(self.sampler(noise.to(self.device), **cond))

    @torch.no_grad()
    def draw_many(self, noise: Tensor, templates: Sequence[str]) -> Tensor:
        """Return the same on the CPU, drawn a few at a time and without a graph."""
        size = BATCHES * self.config.train_batch_size
        parts = range(0, len(noise), size)
        drawn = [self.draw(noise[i : i + size], templates[i : i + size]).cpu() for i in parts]
        return torch.cat(drawn)

    def save(self, folder: Path, settings: Mapping[str, Any]) -> Path:
        """Save the word; return its file."""
        return self.word.save(folder, provenance=Provenance.of(self.pipe), settings=settings)


def _generic_noun(default: Default | None) -> str:
    return "object" if default is None else default.concepts.generic_noun


def _templates(config: EmbedConfig, default: Default | None) -> tuple[list[str], list[str]]:
    """Return the prompts of the updates, and those of the report."""
    if config.pretrained_model_name_or_path is None and default is not None:
        concepts = default.concepts
        *styles, last = concepts.styles
        usual = [concepts.caption_template.format(name="{}", style=style) for style in styles]
        usual.append("{}")
        unseen = [f"{{}}, {last}"]
    else:
        usual, unseen = ["a picture of {}"], []
    templates = config.templates or usual
    if config.templates is not None:
        unseen = []
    return templates, config.validation_templates or unseen or templates
