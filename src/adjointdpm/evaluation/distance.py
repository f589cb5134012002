"""Distance between two sets of pictures, and how different the pictures of one set are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..features import FeatureNetwork
from ..objectives import feature_distance
from .statistics import FeatureStatistics, picture_features

MAX_SUBSET = 1000
"""The usual size of a subset of KID."""


@dataclass(frozen=True)
class SetDistance:
    """How far two sets of pictures are from each other, in the features of a network.

    Such numbers compare only if the feature network is the same, and FID only if the numbers of
    pictures are as well: it is too large for few pictures, and with fewer than features much too
    large. KID is unbiased; around 0 it may be negative.

    Args:
        kid: kernel distance (arXiv 1801.01401), the mean over subsets; None where a statistics file
            has no features.
        kid_std: its standard deviation over subsets.
        fid: Fréchet distance (arXiv 1706.08500).
        num_pictures: how many there were in each set; None where a file does not say.
        subset_size: how many pictures of each set a subset of KID has.
        feature_network: what the features are of.
        num_features: how many there are.
        feature_scale: what the features were divided by.
    """

    kid: float | None
    kid_std: float | None
    fid: float
    num_pictures: tuple[int | None, int | None]
    subset_size: int | None
    feature_network: str
    num_features: int
    feature_scale: float

    def __str__(self) -> str:
        first, second = ("?" if count is None else count for count in self.num_pictures)
        kid = "no KID"
        if self.kid is not None and self.kid_std is not None:
            kid = (
                f"KID x 1000 {1000 * self.kid:.2f} ± {1000 * self.kid_std:.2f} "
                f"(subsets of {self.subset_size})"
            )
        return (
            f"{kid}, FID {self.fid:.2f}; {first} pictures against {second}, {self.num_features} "
            f"features of {self.feature_network}"
        )


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
    """Return KID and FID of two sets of pictures, as 8-bit files would hold them.

    Args:
        images: (n, 3, height, width) in [0, 1].
        reference: (m, 3, height, width) in [0, 1].
        network: a feature network that the pictures were not optimised for. Features are the means
            over positions of its layers.
        subset_size: see `statistics_distance`, as for the following.
        num_subsets: how many subsets are drawn.
        normalize: divide features by the root mean square of the reference's.
        batch_size: how many pictures are looked at together.
        seed: of the subsets.

    Raises:
        ValueError: a set is too small, or features are not finite or all zero.
    """
    _check_subset(len(images), len(reference), subset_size)  # before the work
    first, second = (
        FeatureStatistics.of(picture_features(each, network, batch_size), network.name)
        for each in (images, reference)
    )
    return statistics_distance(
        first,
        second,
        subset_size=subset_size,
        num_subsets=num_subsets,
        normalize=normalize,
        seed=seed,
    )


def statistics_distance(
    statistics: FeatureStatistics,
    reference: FeatureStatistics,
    *,
    subset_size: int | None = None,
    num_subsets: int = 100,
    normalize: bool = True,
    seed: int = 0,
) -> SetDistance:
    """Return FID, and KID by torchmetrics, of two sets of pictures whose features are known.

    Args:
        statistics: of the one set.
        reference: of the other.
        subset_size: how many pictures a subset of KID has; by default half of the smaller set, at
            most 1000.
        num_subsets: how many subsets are drawn.
        normalize: divide features by the root mean square of the reference's. The kernel of KID has
            a scale of its own, which suits Inception-v3: with features of hundreds, such as those
            of VGG16, a few outliers would decide. False for the numbers of other implementations.
        seed: of the subsets.

    Raises:
        ValueError: a set is too small, features are all zero, or they are of two networks.
    """
    names = {each.feature_network for each in (statistics, reference)} - {None}
    if len(names) > 1 or statistics.mean.shape != reference.mean.shape:
        raise ValueError(
            f"features are to be of one network, and these are {len(statistics.mean)} of "
            f"{statistics.feature_network} and {len(reference.mean)} of "
            f"{reference.feature_network}"
        )
    name = next(filter(None, names), "an unnamed network")
    scale = reference.scale if normalize else 1.0
    if scale == 0:
        raise ValueError(f"{name} has no features on the reference: all are zero")
    first, second = statistics.divided_by(scale), reference.divided_by(scale)
    size, kid = None, None
    if first.features is not None and second.features is not None:
        size = _check_subset(len(first.features), len(second.features), subset_size)
        kid = _kernel_distances(first.features, second.features, size, num_subsets, seed)
    return SetDistance(
        kid=None if kid is None else float(kid.mean()),
        kid_std=None if kid is None else float(kid.std(correction=0)),
        fid=frechet_distance(first, second),
        num_pictures=(first.num_pictures, second.num_pictures),
        subset_size=size,
        feature_network=name,
        num_features=len(first.mean),
        feature_scale=scale,
    )


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """Return FID: the squared Fréchet distance of two normal distributions (arXiv 1706.08500).

    The trace of the root of a product of covariances S and T is that of the symmetric
    ``S^(1/2) T S^(1/2)``, which has real roots where rounding makes the product's complex.
    """
    values, vectors = torch.linalg.eigh(first.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = torch.linalg.eigvalsh(root @ second.covariance @ root).clamp(min=0).sqrt().sum()
    means = (first.mean - second.mean).square().sum()
    return float(means + first.covariance.trace() + second.covariance.trace() - 2 * product)


def _check_subset(first: int, second: int, subset_size: int | None) -> int:
    """Return how many pictures a subset has."""
    smaller = min(first, second)
    size = min(MAX_SUBSET, smaller // 2) if subset_size is None else subset_size
    if not 2 <= size <= smaller:
        raise ValueError(
            f"subsets of {size} cannot be drawn from sets of {first} and {second} pictures: KID "
            "needs at least 2 a subset and no more than there are (4 pictures by default)"
        )
    return size


def _kernel_distances(first: Tensor, second: Tensor, size: int, count: int, seed: int) -> Tensor:
    from torchmetrics.image.kid import poly_mmd  # slow to import

    generator = torch.Generator().manual_seed(seed)

    def subset(features: Tensor) -> Tensor:
        return features[torch.randperm(len(features), generator=generator)[:size]]

    return torch.stack([poly_mmd(subset(first), subset(second)) for _ in range(count)])


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
