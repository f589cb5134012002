"""What is optimised: the style of one picture, on the content of others."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from ...assets import load_feature_network
from ...features import FeatureNetwork, from_pil
from ...objectives import GramStyle, Objective, feature_distance, load_objective
from .config import StylizeConfig
from .strokes import painted_strokes

CONTENT_LAYERS = 2
"""Content is compared at so many of the last layers of a feature network."""


class Stylization(nn.Module):
    """A style, and the content that is to stay.

    The content is compared with other pictures as `feature_distance` does: with the pictures that
    the model draws from the same noise when it is as it was. These are known in each update only,
    so this is no `Objective`, which is a function of the pictures alone.

    Args:
        style: what the pictures are to be like.
        content: the network in whose features content is compared.
        content_weight: how much it counts beside the style.
        style_scale: what the style is divided by.
    """

    def __init__(
        self,
        style: Objective,
        content: FeatureNetwork,
        content_weight: float,
        style_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.style, self.content = style, content
        self.content_weight, self.style_scale = content_weight, style_scale

    def style_of(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return what the style objective says of pictures, scaled, (batch,)."""
        return self.style(images, generator) / self.style_scale

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
        loss = self.style.loss(images, generator) / self.style_scale
        if self.content_weight == 0:
            return loss
        return loss + self.content_weight * self.content_distance(images, base)


def build_goal(
    config: StylizeConfig, style: Objective | None, base: Tensor
) -> tuple[Stylization, Tensor | None]:
    """Return the goal that settings describe, and the style picture if it has one.

    Args:
        config: the settings.
        style: in place of the style that they name.
        base: (batch, 3, height, width) in [0, 1], pictures that the model draws as it is.
    """
    network = load_network(config).to(base.device)
    content = network.at(config.content_layers or network.layers[-CONTENT_LAYERS:])
    picture, scale = None, 1.0
    if style is None and config.objective is not None:
        style = load_objective(config.objective)
    elif style is None:
        picture = read_style(config.style_image, config.style_size or min(base.shape[2:]))
        layers = config.style_layers or style_layers(network)
        style = balanced_style(network.at(layers), picture.to(base.device), base)
        scale = style(base).mean().item()
    goal = Stylization(style, content, config.content_weight, scale)
    return goal.to(base.device).requires_grad_(False), picture


@torch.no_grad()
def balanced_style(network: FeatureNetwork, picture: Tensor, base: Tensor) -> GramStyle:
    """Return the distance from a style, with layers weighted so that all count alike at the start.

    A layer at which the model's pictures are a hundred times as far from the style as at another,
    for being brighter, say, would be all that counts otherwise.

    Args:
        network: with the layers that style is measured at.
        picture: (3, height, width) in [0, 1], of the style.
        base: (batch, 3, height, width) in [0, 1], pictures as they are at the start.
    """
    distances = {
        layer: GramStyle(network.at([layer]), picture)(base).mean().item()
        for layer in network.layers
    }
    return GramStyle(network, picture, {layer: 1 / d for layer, d in distances.items()})


def style_layers(network: FeatureNetwork) -> tuple[str, ...]:
    """Return the layers that style is measured at: of VGG16 those of Gatys et al., 2016.

    The last layers of a small classifier say what is shown, and not how. They are left out.
    """
    is_vgg = network.name.startswith("VGG")
    return network.layers if is_vgg else network.layers[:-CONTENT_LAYERS]


def load_network(config: StylizeConfig) -> FeatureNetwork:
    """Return the feature network that settings name, or the one that suits the pipeline."""
    if config.feature_network is not None:
        return load_feature_network(config.feature_network)
    # The embedded classifier was made for the embedded model's pictures; others are photographs.
    for best in ("vgg16-hed", "vgg16-torchvision") if config.pretrained_model_name_or_path else ():
        with suppress(ImportError):
            return load_feature_network(best)
    return load_feature_network("classifier")


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
    return from_pil(image)
