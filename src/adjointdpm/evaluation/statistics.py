"""What FID and KID know of a set of pictures, and the files in which others keep it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..features import FeatureNetwork
from ..storage import replacing


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and covariance of the features of a set of pictures, and the features where known.

    Args:
        mean: (features,) in float64.
        covariance: (features, features) in float64, unbiased.
        num_pictures: how many there were; None if a file does not say.
        features: (num_pictures, features) in float64; None if a file does not have them.
        feature_network: what the features are of; None if a file does not say.
    """

    mean: Tensor
    covariance: Tensor
    num_pictures: int | None = None
    features: Tensor | None = None
    feature_network: str | None = None

    def __post_init__(self) -> None:
        size = self.mean.numel()
        if self.mean.shape != (size,) or self.covariance.shape != (size, size):
            raise ValueError(
                f"a mean of shape {tuple(self.mean.shape)} and a covariance of shape "
                f"{tuple(self.covariance.shape)} do not belong together"
            )
        if not (self.mean.isfinite().all() and self.covariance.isfinite().all()):
            raise ValueError("the statistics have values that are not finite")

    @classmethod
    def of(cls, features: Tensor, feature_network: str | None = None) -> FeatureStatistics:
        """Return those of features.

        Args:
            features: (pictures, features), at least two pictures.
            feature_network: what they are of.

        Raises:
            ValueError: fewer than two pictures, or features that are not finite.
        """
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(
                f"statistics are of features (pictures, features) of at least 2 pictures, not of "
                f"the shape {tuple(features.shape)}"
            )
        features = features.detach().double().cpu()
        covariance = features.T.cov().reshape(features.shape[1], -1)
        return cls(features.mean(0), covariance, len(features), features, feature_network)

    @property
    def scale(self) -> float:
        """The root mean square of the features."""
        biased = 1.0 if self.num_pictures is None else 1 - 1 / self.num_pictures
        square = self.mean.square().sum() + biased * self.covariance.trace()
        return float((square / len(self.mean)).sqrt())

    def divided_by(self, scale: float) -> FeatureStatistics:
        """Return those of features that are divided by a number."""
        features = None if self.features is None else self.features / scale
        return FeatureStatistics(
            self.mean / scale,
            self.covariance / scale**2,
            self.num_pictures,
            features,
            self.feature_network,
        )


@torch.no_grad()
def picture_features(
    images: Tensor | Iterable[Tensor], network: FeatureNetwork, batch_size: int = 64
) -> Tensor:
    """Return the features of pictures, as 8-bit files would hold them.

    Args:
        images: (n, 3, height, width) in [0, 1], or batches of such, which are asked for one by one;
            they are moved to the network's device.
        network: the feature network; features are the means over positions of its layers.
        batch_size: how many pictures are looked at together.

    Returns:
        (n, features) in float64, on the CPU.

    Raises:
        ValueError: no pictures, or features that are not finite.
    """
    weight = next(network.parameters(), torch.empty(0))
    found = [
        network.vectors(part.to(weight.device).mul(255).round().div(255)).double().cpu()
        for batch in ([images] if isinstance(images, Tensor) else images)
        for part in batch.split(batch_size)
    ]
    if not found:
        raise ValueError("there are no pictures to measure")
    features = torch.cat(found)
    if not features.isfinite().all():
        raise ValueError(f"{network.name} has features that are not finite on these pictures")
    return features


def read_statistics(path: str | Path) -> FeatureStatistics:
    """Read a statistics file.

    It is one of `write_statistics`, of pytorch-fid (``mu``, ``sigma``), or of clean-fid (``mu``,
    ``sigma``, or ``feats`` for KID). Nothing in it is unpickled.

    Args:
        path: an ``.npz`` file.

    Raises:
        ValueError: it is not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            held: dict[str, Any] = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is no statistics file (.npz): {error}") from None
    name = str(held["feature_network"]) if "feature_network" in held else None
    if "feats" in held:
        return FeatureStatistics.of(torch.from_numpy(held["feats"]), name)
    if not {"mu", "sigma"} <= held.keys():
        raise ValueError(
            f"{path} holds {', '.join(held) or 'nothing'}; a statistics file has mu and sigma, or "
            "feats"
        )
    count = int(held["num_pictures"]) if "num_pictures" in held else None
    mean, covariance = (torch.from_numpy(held[key]).double() for key in ("mu", "sigma"))
    return FeatureStatistics(mean, covariance, count, None, name)


def write_statistics(
    path: str | Path, statistics: FeatureStatistics, *, with_features: bool = True
) -> None:
    """Write a statistics file, which pytorch-fid and clean-fid read too.

    Args:
        path: an ``.npz`` file.
        statistics: its content.
        with_features: write the features as well, without which there is no KID.
    """
    held: dict[str, Any] = {"mu": statistics.mean.numpy(), "sigma": statistics.covariance.numpy()}
    if with_features and statistics.features is not None:
        single = statistics.features.float()  # what most networks compute in, and half the size
        lossless = torch.equal(single.double(), statistics.features)
        held["feats"] = (single if lossless else statistics.features).numpy()
    if statistics.num_pictures is not None:
        held["num_pictures"] = np.array(statistics.num_pictures)
    if statistics.feature_network is not None:
        held["feature_network"] = np.array(statistics.feature_network)
    with replacing(Path(path)) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **held)
