"""Distance between two sets of pictures, and how different the pictures of one set are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..features import FeatureNetwork
from ..objectives import feature_distance

MAX_SUBSET = 1000
"""The usual size of a subset of KID."""


@dataclass(frozen=True)
class SetDistance:
    """How far two sets of pictures are from each other, in the features of a network.

    Such numbers compare only if the feature network is the same, and FID only if the numbers of
    pictures are as well: it is too large for few pictures, and with fewer than features much too
    large. KID is unbiased; around 0 it may be negative.

    Args:
        kid: kernel distance (arXiv 1801.01401), the mean over subsets.
        kid_std: its standard deviation over subsets.
        fid: Fréchet distance (arXiv 1706.08500).
        num_pictures: how many there were in each set.
        subset_size: how many pictures of each set a subset of KID has.
        feature_network: what the features are of.
        num_features: how many there are.
        feature_scale: what the features were divided by.
    """

    kid: float
    kid_std: float
    fid: float
    num_pictures: tuple[int, int]
    subset_size: int
    feature_network: str
    num_features: int
    feature_scale: float

    def __str__(self) -> str:
        first, second = self.num_pictures
        return (
            f"KID x 1000 {1000 * self.kid:.2f} ± {1000 * self.kid_std:.2f} "
            f"(subsets of {self.subset_size}), FID {self.fid:.2f}; {first} pictures against "
            f"{second}, {self.num_features} features of {self.feature_network}"
        )


@torch.no_grad()
def set_distance(
    images: Tensor,
    reference: Tensor,
    network: FeatureNetwork,
    *,
    subset_size: int | None = None,
    num_subsets: int = 100,
    normalize: bool = True,
    batch_size: int = 64,
    seed: int = 0,
) -> SetDistance:
    """Return KID and FID of two sets of pictures, as 8-bit files would hold them, by torchmetrics.

    Args:
        images: (n, 3, height, width) in [0, 1].
        reference: (m, 3, height, width) in [0, 1].
        network: a feature network that the pictures were not optimised for. Features are the means
            over positions of its layers.
        subset_size: how many pictures a subset of KID has; by default half of the smaller set, at
            most 1000.
        num_subsets: how many subsets are drawn.
        normalize: divide features by the root mean square of the reference's. The kernel of KID has
            a scale of its own, which suits Inception-v3: with features of hundreds, such as those
            of VGG16, a few outliers would decide. False for the numbers of other implementations.
        batch_size: how many pictures are looked at together.
        seed: of the subsets.

    Raises:
        ValueError: a set is too small, or features are not finite or all zero.
    """
    from torchmetrics.image.kid import poly_mmd  # slow to import

    smaller = min(len(images), len(reference))
    size = min(MAX_SUBSET, smaller // 2) if subset_size is None else subset_size
    if not 2 <= size <= smaller:
        raise ValueError(
            f"subsets of {size} cannot be drawn from sets of {len(images)} and {len(reference)} "
            "pictures: KID needs at least 2 a subset and no more than there are (4 pictures by "
            "default)"
        )
    first = _vectors(images, network, batch_size)
    second = _vectors(reference, network, batch_size)
    scale = float(second.square().mean().sqrt()) if normalize else 1.0
    if scale == 0:
        raise ValueError(f"{network.name} has no features on the reference: all are zero")
    first, second = first / scale, second / scale
    generator = torch.Generator().manual_seed(seed)

    def subset(features: Tensor) -> Tensor:
        return features[torch.randperm(len(features), generator=generator)[:size]]

    distances = torch.stack([poly_mmd(subset(first), subset(second)) for _ in range(num_subsets)])
    return SetDistance(
        kid=float(distances.mean()),
        kid_std=float(distances.std(correction=0)),
        fid=_frechet(first, second),
        num_pictures=(len(images), len(reference)),
        subset_size=size,
        feature_network=network.name,
        num_features=first.shape[1],
        feature_scale=scale,
    )


@torch.no_grad()
def diversity(images: Tensor, network: FeatureNetwork) -> float:
    """Return the mean `feature_distance` of all pairs of pictures: 0 if all are the same.

    Args:
        images: (n, 3, height, width) in [0, 1], at least 2.
        network: the feature network.

    Raises:
        ValueError: there is only one picture.
    """
    if len(images) < 2:
        raise ValueError("one picture alone has no diversity: give at least 2")
    features = network(images)
    pairs = [
        feature_distance(
            {name: f[i + 1 :] for name, f in features.items()},
            {name: f[i : i + 1] for name, f in features.items()},
        )
        for i in range(len(images) - 1)
    ]
    return float(torch.cat(pairs).mean())


def _vectors(images: Tensor, network: FeatureNetwork, batch_size: int) -> Tensor:
    pictures = images.mul(255).round().div(255)
    features = torch.cat([network.vectors(batch) for batch in pictures.split(batch_size)])
    if not features.isfinite().all():
        raise ValueError(f"{network.name} has features that are not finite on these pictures")
    return features.double().cpu()


class _AsTheyAre(nn.Identity):
    """What torchmetrics takes for its feature network, given features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def _frechet(features: Tensor, reference: Tensor) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(_AsTheyAre(features.shape[1]), normalize=True)
    metric.update(reference, real=True)
    metric.update(features, real=False)
    return float(metric.compute())
