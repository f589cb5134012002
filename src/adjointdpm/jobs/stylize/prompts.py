"""What a model is asked for where the settings do not say."""

from __future__ import annotations

from ...assets import Concepts
from .config import StylizeConfig

EVERY = 5
"""One in so many words of the embedded model is for the report alone."""
USUAL = (
    "a photo of a cat",
    "a photo of a house by a lake",
    "a portrait of a woman",
    "a portrait of an old man",
    "a street in a city",
    "a bowl of fruit",
    "a mountain under clouds",
    "a sailing boat at sea",
    "a horse on a meadow",
    "a red car",
    "a vase of flowers",
    "a forest in autumn",
)
USUAL_UNSEEN = (
    "a photo of a dog",
    "a bridge over a river",
    "a portrait of a child",
    "a cup of coffee on a table",
)


def choose_prompts(
    config: StylizeConfig, concepts: Concepts | None
) -> tuple[list[str], dict[str, str | None]]:
    """Return the prompts of the updates, and those of the report with the class that each names.

    Args:
        config: the settings.
        concepts: the words of the embedded model, where it is the one.
    """
    seen, unseen = list(USUAL), list(USUAL_UNSEEN)
    labels: dict[str, str] = {}
    if concepts is not None:
        named = [concept for concept in concepts.concepts if not concept.wordless]
        seen = [
            concepts.prompt(concept.name, style)
            for i, concept in enumerate(named)
            for style in concepts.styles
            if i % EVERY
        ]
        styles = concepts.styles
        unseen = [
            concepts.prompt(concept.name, styles[i % len(styles)])
            for i, concept in enumerate(named[::EVERY])
        ]
        labels = {
            concepts.prompt(concept.name, style): concept.label
            for concept in named
            for style in styles
        }
    prompts = config.prompts or seen
    if not prompts:
        raise ValueError("this model has too few words to train on: set prompts")
    validation = config.validation_prompts or [p for p in unseen if p not in prompts]
    if not validation:
        raise ValueError(
            "all validation prompts are among prompts: set validation_prompts to others, which no "
            "update draws"
        )
    return prompts, {prompt: labels.get(prompt) for prompt in validation}
