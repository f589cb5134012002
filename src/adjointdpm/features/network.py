"""A network of which some layers are features of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .gram import by_channel
from .layers import layer_outputs


class FeatureNetwork(nn.Module):
    """Named layers of any module as features of pictures.

    It stays in evaluation mode, whatever mode its surroundings are set to: with dropout or with
    statistics of a batch, a picture would have no features of its own.

    Args:
        model: the module; it is put into evaluation mode.
        layers: names of modules in it, as ``model.named_modules()`` gives them.
        preprocessing: how pictures in [0, 1] become its input; None if the model takes them.
        name: what results are to call it.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        preprocessing: Callable[[Tensor], Tensor] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if not layers or isinstance(layers, str):
            raise ValueError(f"layers must be a list of at least one name, not {layers!r}")
        self.model = model.eval()
        self.layers = tuple(layers)
        self.preprocessing = preprocessing
        self.name = name or type(model).__name__

    def train(self, mode: bool = True) -> FeatureNetwork:
        """Stay in evaluation mode."""
        return super().train(False)

    def at(self, layers: Sequence[str]) -> FeatureNetwork:
        """Return the same network with other layers."""
        return FeatureNetwork(self.model, layers, self.preprocessing, self.name)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the features of pictures (batch, 3, height, width) in [0, 1], by layer."""
        if self.preprocessing is not None:
            images = self.preprocessing(images)
        return layer_outputs(self.model, self.layers, images)

    @torch.no_grad()
    def constants(self, reference: Tensor) -> dict[str, Tensor]:
        """Return the features of pictures, or of one alone, (3, height, width), as constants."""
        return self(reference if reference.ndim == 4 else reference[None])

    def vectors(self, images: Tensor) -> Tensor:
        """Return one vector a picture, (batch, channels of all layers): means over positions."""
        features = self(images).values()
        return torch.cat([by_channel(feature).mean(2) for feature in features], dim=1)
