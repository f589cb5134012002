"""How much of a picture the noise decides: distances between pictures of one caption.

A model that has learned one picture per caption scores 0, one that draws what `augment.vary` does
to the training pictures scores 1.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import nn

from training.augment import vary
from training.concepts import Concept, caption
from training.emoji import STYLES, EmojiSet
from training.train_vae import to_model_range

EVERY = 5
"""Every fifth named concept is measured, in one style that the model was shown."""


def measured_pairs(concepts: list[Concept]) -> list[tuple[Concept, str]]:
    pairs = []
    for i, concept in enumerate([c for c in concepts if not c.wordless][::EVERY]):
        shown = [style for style in STYLES if style not in concept.held_out_styles]
        pairs.append((concept, shown[i % len(shown)]))
    return pairs


def measured_captions(pairs: list[tuple[Concept, str]], draws: int) -> list[str]:
    """Each caption `draws` times in a row."""
    return [caption(concept.name, style) for concept, style in pairs for _ in range(draws)]


@torch.no_grad()
def varied_pictures(
    vae: AutoencoderKL, emoji: EmojiSet, pairs: list[tuple[Concept, str]], draws: int
) -> torch.Tensor:
    """What the model was shown of the pairs, as far as the autoencoder lets it through."""
    rows = [
        emoji.images[STYLES.index(style), emoji.index(concept.label.replace(" ", "-"))]
        for concept, style in pairs
        for _ in range(draws)
    ]
    shown = torch.cat([to_model_range(row) for row in rows])
    decoded = [
        vae.decode(vae.encode(vary(x).to(vae.device)).latent_dist.mean).sample.clamp(-1, 1).cpu()
        for x in shown.split(64)
    ]
    return torch.cat(decoded)


@torch.no_grad()
def features(judge: nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    """(n, features): what the judge's last layer sees."""
    device = next(judge.parameters()).device
    return torch.cat(
        [judge.base_model(x.to(device)).pooler_output.cpu() for x in pictures.split(64)]
    )


def mean_distance(points: torch.Tensor, draws: int) -> float:
    """Mean distance of two different draws of one caption; `points` has `draws` rows for each."""
    points = points.flatten(1).unflatten(0, (-1, draws)).double()
    return float(torch.cdist(points, points).sum((1, 2)).mean() / (draws * (draws - 1)))


def shares(
    judge: nn.Module, drawn: torch.Tensor, shown: torch.Tensor, draws: int
) -> dict[str, float]:
    """Mean distances of drawn pictures, as a share of those of the shown ones."""
    return {
        "pixels": round(mean_distance(drawn, draws) / mean_distance(shown, draws), 3),
        "judge_features": round(
            mean_distance(features(judge, drawn), draws)
            / mean_distance(features(judge, shown), draws),
            3,
        ),
    }
