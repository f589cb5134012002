"""What is optimised: the style of one picture, on the content of others."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from ...assets import load_feature_network
from ...features import FeatureNetwork
from ...objectives import GramStyle, Objective, feature_distance, load_objective
from .config import StylizeConfig
from .strokes import painted_strokes

SHALLOW = -2
"""Style is measured at all layers of a feature network but so many of the last."""
DEEP = 2
"""Content is compared at all but so many of the first."""


class Stylization(nn.Module):
    """A style, and the content that is to stay.

    The content is compared with other pictures as `feature_distance` does: with the pictures that
    the model draws from the same noise when it is as it was. These are known in each update only,
    so this is no `Objective`, which is a function of the pictures alone.

    Args:
        style: what the pictures are to be like.
        content: the network in whose features content is compared.
        content_weight: how much it counts beside the style.
    """

    def __init__(self, style: Objective, content: FeatureNetwork, content_weight: float) -> None:
        super().__init__()
        self.style, self.content, self.content_weight = style, content, content_weight

    def content_distance(self, images: Tensor, base: Tensor) -> Tensor:
        """Return how far pictures are from others in content, (batch,).

        Args:
            images: (batch, 3, height, width) in [0, 1].
            base: as many, the same size; they get no gradient.
        """
        with torch.no_grad():
            kept = self.content(base)
        return feature_distance(self.content(images), kept)

    def forward(
        self, images: Tensor, base: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return what is to be minimised, (batch,).

        Args:
            images: (batch, 3, height, width) in [0, 1].
            base: what their content is compared with, as many.
            generator: for a style that draws random numbers.
        """
        loss = self.style.loss(images, generator)
        if self.content_weight == 0:
            return loss
        return loss + self.content_weight * self.content_distance(images, base)


def build_goal(
    config: StylizeConfig, style: Objective | None, size: int
) -> tuple[Stylization, Tensor | None]:
    """Return the goal that settings describe, and the style picture if it has one.

    Args:
        config: the settings.
        style: in place of the style that they name.
        size: of the model's pictures, in pixels.
    """
    network = load_feature_network(config.feature_network)
    layers = network.layers
    picture = None
    if style is None and config.objective is not None:
        style = load_objective(config.objective)
    elif style is None:
        picture = read_style(config.style_image, config.style_size or size)
        style = GramStyle(network.at(config.style_layers or layers[:SHALLOW]), picture)
    content = network.at(config.content_layers or layers[DEEP:])
    goal = Stylization(style, content, config.content_weight)
    return goal.requires_grad_(False), picture


def read_style(path: str | Path | None, size: int) -> Tensor:
    """Return the style picture, (3, height, width) in [0, 1].

    Args:
        path: of a picture; None for painted strokes.
        size: length of its shorter edge.
    """
    if path is None:
        return painted_strokes(size)
    with Image.open(path) as file:
        scale = size / min(file.size)
        width, height = (max(1, round(scale * side)) for side in file.size)
        image = file.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.reshape(height, width, 3).permute(2, 0, 1) / 255
