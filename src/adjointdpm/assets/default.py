"""The embedded default: a small text-to-image model of emoji, two classifiers, and their words.

All of it lies in this folder of the package. Set the environment variable ``ADJOINTDPM_ASSETS`` to
use another folder of the same layout.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from ..objectives import ImageClassifier
from ..pipelines import load_pipeline

ASSETS_VARIABLE = "ADJOINTDPM_ASSETS"
PIPELINE_FOLDER = "emoji-diffusion"


@dataclass(frozen=True)
class Concept:
    """One thing that the embedded model can draw and its classifiers can name.

    Args:
        label: what the classifiers call it.
        name: what captions call it; the generic noun if it is wordless.
        emoji: the character.
        wordless: whether the model has seen it without ever being told its word.
        held_out_styles: styles in which the model has never seen it.
    """

    label: str
    name: str
    emoji: str
    wordless: bool
    held_out_styles: tuple[str, ...]


@dataclass(frozen=True)
class Concepts:
    """The words of the embedded model.

    Args:
        caption_template: how a prompt is written, with ``{name}`` and ``{style}``.
        styles: the drawing styles.
        generic_noun: what every wordless concept is called.
        concepts: all that the classifiers can name.
    """

    caption_template: str
    styles: tuple[str, ...]
    generic_noun: str
    concepts: tuple[Concept, ...]

    def prompt(self, name: str, style: str) -> str:
        """Return the prompt of a name in a style.

        A name or style that stands in no caption is drawn all the same, as whatever the model makes
        of it; there is a warning with those that are near.
        """
        names = sorted({concept.name for concept in self.concepts} | {self.generic_noun})
        words = {word for known in names for word in known.split()}
        seen = {"name": words.issuperset(name.split()), "style": style in self.styles}
        for what, word, known in (("name", name, names), ("style", style, self.styles)):
            if not seen[what]:
                near = get_close_matches(word, known, n=5, cutoff=0.5) or known[:5]
                warnings.warn(
                    f"the model has seen no caption with the {what} {word!r}; it knows, among "
                    f"{len(known)}, {', '.join(near)}",
                    stacklevel=2,
                )
        return self.caption_template.format(name=name, style=style)

    @property
    def wordless(self) -> tuple[Concept, ...]:
        """The concepts that the model can draw and has no word for."""
        return tuple(concept for concept in self.concepts if concept.wordless)


@dataclass(frozen=True)
class Default:
    """What `load_default` loads, in float32 and frozen.

    Args:
        pipeline: a diffusers ``StableDiffusionPipeline``.
        classifier: a metric to optimise.
        judge: a classifier of another architecture, to judge what the first was optimised for.
        concepts: the words that all of them know.
        folder: where they lie.
    """

    pipeline: Any
    classifier: ImageClassifier
    judge: ImageClassifier
    concepts: Concepts
    folder: Path


def assets_folder(folder: str | Path | None = None) -> Path:
    """Return the folder of the embedded default.

    Args:
        folder: another folder of the same layout; by default that of the environment variable
            ``ADJOINTDPM_ASSETS``, or the one inside the package.

    Raises:
        FileNotFoundError: there is no model in it.
    """
    chosen = folder or os.environ.get(ASSETS_VARIABLE)
    path = Path(chosen) if chosen else Path(str(resources.files(__package__)))
    if not (path / PIPELINE_FOLDER / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{path} holds no {PIPELINE_FOLDER}/model_index.json, so it is not the embedded model. "
            + (
                f"Check the folder that was given, or unset {ASSETS_VARIABLE}"
                if chosen
                else "Install the package anew, or train the model with the scripts in training/"
            )
        )
    return path


def load_default(folder: str | Path | None = None, device: str | torch.device = "cpu") -> Default:
    """Load the embedded model, its classifiers and its words.

    Nothing requires grad: call ``requires_grad_(True)`` on what is to be trained.

    Args:
        folder: folder of the model, as `assets_folder` takes it.
        device: where to put the models.

    Raises:
        FileNotFoundError: the folder holds no such model.
        ValueError: weights are pickled; only safetensors files are read.
    """
    path = assets_folder(folder)
    pipeline = load_pipeline(
        path / PIPELINE_FOLDER,
        dtype=torch.float32,
        safety_checker=None,
        local_files_only=True,
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        module.eval().requires_grad_(False)
    return Default(
        pipeline=pipeline,
        classifier=ImageClassifier.from_pretrained(path / "classifier").to(device),
        judge=ImageClassifier.from_pretrained(path / "judge").to(device),
        concepts=read_concepts(path / "concepts.json"),
        folder=path,
    )


def read_concepts(path: Path) -> Concepts:
    """Read ``concepts.json``."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return Concepts(
        caption_template=content["caption_template"],
        styles=tuple(content["styles"]),
        generic_noun=content["generic_noun"],
        concepts=tuple(
            Concept(
                label=entry["label"],
                name=entry["name"],
                emoji=entry["emoji"],
                wordless=entry["wordless"],
                held_out_styles=tuple(entry["held_out_styles"]),
            )
            for entry in content["concepts"]
        ),
    )
