"""A pipeline with the word that it is taught."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...assets import Concepts
from ...pipelines import shard
from ...setup import Model
from ...variables import PromptConditioning, Word
from .config import EmbedConfig

BATCHES = 4
"""Batches of the updates that are drawn at once where no gradient is taken, in as much memory."""


class Subject:
    """What is taught: draws pictures of prompts with the word, differentiably.

    Args:
        config: settings.
        model: the pipeline.
    """

    def __init__(self, config: EmbedConfig, model: Model) -> None:
        self.config, self.model = config, model
        embedded = config.pretrained_model_name_or_path is None
        concepts = model.default.concepts if embedded and model.default is not None else None
        self.templates, self.validation_templates = _templates(config, concepts)
        self.contexts = _contexts(config, concepts)
        noun = "object" if concepts is None else concepts.generic_noun
        start = config.initializer_token or noun
        self.word: Word | PromptConditioning
        if config.variable == "word":
            self.word = Word(
                model.pipe,
                config.placeholder_token,
                start,
                config.num_vectors,
                max_distance=config.max_distance,
            )
        else:
            prompt = self.templates[0].replace("{}", start)
            self.word = PromptConditioning(model.pipe, prompt, guidance=model.guided)
            self.templates = self.validation_templates = self.templates[:1]
            self.contexts = []
        if config.fully_shard:
            shard(model.pipe)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is optimised, by name."""
        return self.word.tensors

    def prompts(self, count: int, generator: torch.Generator) -> list[str]:
        """Return prompts for an update: templates and, where there are any, as many contexts."""

        def some(known: list[str]) -> list[str]:
            picks = torch.randint(len(known), (count,), generator=generator)
            return [known[i] for i in picks.tolist()]

        templates = some(self.templates)
        if not self.contexts:
            return templates
        chances = torch.rand(count, generator=generator).tolist()
        pairs = zip(templates, some(self.contexts), chances, strict=True)
        return [template if chance < 0.5 else context for template, context, chance in pairs]

    def draw(self, noise: Tensor, templates: Sequence[str]) -> Tensor:
        """Return pictures (batch, 3, height, width) in [0, 1].

        Args:
            noise: (batch, ...) latents, on any device.
            templates: one for each.
        """
        return self.model.decode(self.sample(noise, templates))

    def sample(self, noise: Tensor, templates: Sequence[str]) -> Tensor:
        """Return the latents of the same pictures."""
        return self.model.sample(noise.to(self.model.device), **self.encode(templates))

    @property
    def many(self) -> int:
        """Pictures that are drawn at once where no gradient is taken."""
        return BATCHES * self.config.train_batch_size

    def encode(self, templates: Sequence[str]) -> dict[str, Any]:
        """Return the conditioning of templates with the word."""
        prompts = [t.replace("{}", self.config.placeholder_token) for t in templates]
        return self.word.encode(prompts, guidance=self.model.guided)

    @torch.no_grad()
    def draw_many(self, noise: Tensor, templates: Sequence[str]) -> Tensor:
        """Return the same on the CPU, drawn a few at a time and without a graph."""
        size = self.many
        parts = range(0, len(noise), size)
        drawn = [self.draw(noise[i : i + size], templates[i : i + size]).cpu() for i in parts]
        return torch.cat(drawn)

    def save(self, folder: Path, settings: Mapping[str, Any]) -> Path:
        """Save the word; return its file."""
        how: dict[str, Any] = {"provenance": self.model.provenance, "settings": settings}
        if isinstance(self.word, Word):
            return self.word.save(folder, **how)
        config = self.config
        return self.word.save(
            folder,
            guidance_scale=config.guidance_scale,
            num_inference_steps=config.num_inference_steps,
            **how,
        )


WORDINGS = ("{name} style {style}", "{name}, in {style} style", "{name} - {style}")
"""Other wordings of captions that the embedded model understands, though it has seen none."""


def templates_in(concepts: Concepts, styles: Sequence[str]) -> list[str]:
    """Return prompts of the embedded model in some styles, and one without any."""
    return [*(concepts.caption_template.format(name="{}", style=each) for each in styles), "{}"]


def contexts_in(concepts: Concepts, styles: Sequence[str]) -> list[str]:
    """Return the embedded model's contexts: other wordings, and named things in place of styles.

    With one of its own words before it, the model draws that word whatever stands for the style.
    """
    wordings = (concepts.caption_template, *WORDINGS)
    named = [concept.name for concept in concepts.concepts if not concept.wordless]
    worded = [wording.format(name="{}", style=style) for wording in WORDINGS for style in styles]
    return worded + [
        wording.format(name="{}", style=name)
        for wording, name in zip(itertools.cycle(wordings), named, strict=False)
    ]


def _templates(config: EmbedConfig, concepts: Concepts | None) -> tuple[list[str], list[str]]:
    """Return the prompts of the updates, and those of the report."""
    if concepts is not None:
        *styles, last = concepts.styles
        usual = templates_in(concepts, styles)
        unseen = [f"{{}}, {last}"]
    else:
        usual, unseen = ["a picture of {}"], []
    templates = config.templates or usual
    if config.templates is not None:
        unseen = []
    return templates, config.validation_templates or unseen or templates


def _contexts(config: EmbedConfig, concepts: Concepts | None) -> list[str]:
    if config.contexts is not None or concepts is None or config.templates is not None:
        return config.contexts or []
    return contexts_in(concepts, concepts.styles[:-1])
