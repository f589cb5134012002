"""Distance from the style of a picture."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..features import FeatureNetwork, gram_matrix
from .layer_weights import normalized_weights
from .objective import Objective


class GramStyle(Objective):
    """The relative distance of Gram matrices from those of a reference: smaller is better.

    The mean over layers of ``|G - G_ref|^2 / |G_ref|^2``, with the Gram matrices G of Gatys et al.
    (2016, CVPR). It is 0 for the reference itself and 1 for a picture without features. That it is
    relative makes layers and networks comparable; Gatys et al. balance them by hand.

    Args:
        network: a frozen network and the layers that style is measured at.
        reference: (3, height, width), or (n, 3, height, width) of which the mean of the Gram
            matrices is taken, in [0, 1]. It is looked at once, in its own size: scale it so that
            its strokes are as large as those of the pictures are to be.
        weights: how much each layer counts; by default all the same. Only their ratios matter.

    Raises:
        ValueError: the weights are not those of the layers.
    """

    larger_is_better = False

    def __init__(
        self,
        network: FeatureNetwork,
        reference: Tensor,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.weights = normalized_weights(network.layers, weights)
        grams = {name: gram_matrix(f).mean(0) for name, f in network.constants(reference).items()}
        for i, name in enumerate(network.layers):
            if not grams[name].any():
                raise ValueError(f"the reference has no features at the layer {name!r}")
            self.register_buffer(f"_gram_{i}", grams[name], persistent=False)

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the distances, (batch,), of pictures (batch, 3, height, width) in [0, 1]."""
        distances = []
        for i, (name, features) in enumerate(self.network(images).items()):
            reference = self.get_buffer(f"_gram_{i}").to(features)
            difference = (gram_matrix(features) - reference).square().sum((1, 2))
            distances.append(self.weights[name] * difference / reference.square().sum())
        return torch.stack(distances).sum(0)
