"""Distance between the features of two pictures."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..features import FeatureNetwork, by_channel
from .layer_weights import normalized_weights
from .objective import Objective

EPSILON = 1e-10
"""Added to squared lengths: without it, the gradient at features that are zero is not finite."""


def feature_distance(
    features: Mapping[str, Tensor],
    others: Mapping[str, Tensor],
    weights: Mapping[str, float] | None = None,
) -> Tensor:
    """Return how much features of pictures differ, (batch,), between 0 and 4.

    At each position the channels are scaled to length one; squared differences are averaged over
    positions, and then over layers. That is LPIPS (arXiv 1801.03924) with all channels alike.

    Args:
        features: by layer, as a `FeatureNetwork` returns them.
        others: features of as many pictures, or of one.
        weights: how much each layer counts; by default all the same. Only their ratios matter.

    Raises:
        ValueError: layers, shapes or weights do not fit.
    """
    if set(features) != set(others):
        raise ValueError(f"features of {', '.join(features)} against {', '.join(others)}")
    shares = normalized_weights(list(features), weights)
    distances = []
    for name, share in shares.items():
        mine, other = features[name], others[name].to(features[name])
        if mine.shape[1:] != other.shape[1:] or len(other) not in (1, len(mine)):
            raise ValueError(
                f"features of the shapes {tuple(mine.shape)} and {tuple(other.shape)} at the layer "
                f"{name!r} cannot be compared: the pictures must have the same size"
            )
        difference = _unit(by_channel(mine)) - _unit(by_channel(other))
        distances.append(share * difference.square().sum(1).mean(1))
    return torch.stack(distances).sum(0)


def _unit(channels: Tensor) -> Tensor:
    return channels * (channels.square().sum(1, keepdim=True) + EPSILON).rsqrt()


class PerceptualDistance(Objective):
    """How much the features of pictures differ from those of a reference: smaller is better.

    `feature_distance` compares with pictures that are not known in advance.

    Args:
        network: a frozen network and the layers that are compared.
        reference: (3, height, width), or (batch, 3, height, width) one for each picture, in [0, 1].
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
        features = network.constants(reference)
        for i, name in enumerate(network.layers):
            self.register_buffer(f"_features_{i}", features[name], persistent=False)

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the distances, (batch,), of pictures (batch, 3, height, width) in [0, 1].

        Raises:
            ValueError: the pictures have another size or number than the reference.
        """
        layers = enumerate(self.network.layers)
        reference = {name: self.get_buffer(f"_features_{i}") for i, name in layers}
        return feature_distance(self.network(images), reference, self.weights)
