"""FID and KID of pictures that a pipeline draws, or that a folder holds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...assets import load_feature_network
from ...evaluation import (
    FeatureStatistics,
    SetDistance,
    picture_features,
    read_statistics,
    statistics_distance,
    write_statistics,
)
from ...features import FeatureNetwork
from ...runs import RunResult, choose_device, run_folder, usage_since
from .config import FidConfig
from .pictures import DrawnPictures, FolderPictures

SHOWN = 64
"""How many of the pictures the page shows."""


@dataclass(frozen=True)
class FidResult(RunResult):
    """What was measured.

    Args:
        config: the settings.
        distance: FID and KID.
        sampler: the name of the plan that drew the pictures; None where they were there.
        num_calls: network calls a picture, without those of guidance; None where they were there.
        shown: the first pictures, (at most 64, 3, height, width) in [0, 1]; None where a statistics
            file stands for them.
    """

    config: FidConfig
    distance: SetDistance
    sampler: str | None
    num_calls: int | None
    shown: Tensor | None


def run_fid(config: FidConfig, network: FeatureNetwork | None = None) -> FidResult:
    """Measure FID and KID.

    Args:
        config: settings.
        network: a feature network in place of the one that the settings name.

    Raises:
        ValueError: settings that the pipeline does not take, or sets that are too small.
        OSError: there are no pictures, or the folder cannot be used; see `run_folder`.
    """
    started = time.perf_counter()
    device = choose_device(config.device)
    with run_folder(config.output_dir, "fid", overwrite=config.overwrite_output_dir) as folder:
        if network is None:
            network = load_feature_network(
                config.feature_network, weights=config.feature_weights, resizing=config.resizing
            )
        network = network.to(device)
        drawn = DrawnPictures(config, device) if config.images is None else None
        reference = _statistics(config.reference, network, config.batch_size, [])
        shown: list[Tensor] = []
        source = config.images if drawn is None else drawn
        assert source is not None
        images = _statistics(source, network, config.batch_size, shown)
        distance = statistics_distance(
            images,
            reference,
            subset_size=config.subset_size,
            num_subsets=config.num_subsets,
            normalize=_needs_scale(images, reference),
            seed=config.seed,
        )
        if config.save_statistics:
            write_statistics(folder / "images.npz", images)
            write_statistics(folder / "reference.npz", reference)
        return FidResult(
            config=config,
            distance=distance,
            sampler=None if drawn is None else drawn.sampler.plan.name,
            num_calls=None if drawn is None else drawn.sampler.plan.num_calls,
            shown=torch.cat(shown) if shown else None,
            **usage_since(started, device),
        )


def _needs_scale(*statistics: FeatureStatistics) -> bool:
    """Return whether features are to be divided by their scale: those of others are Inception's."""
    names = [each.feature_network for each in statistics if each.feature_network is not None]
    return bool(names) and not names[0].startswith("Inception-v3")


def _statistics(
    source: str | Path | Iterable[Tensor],
    network: FeatureNetwork,
    batch_size: int,
    shown: list[Tensor],
) -> FeatureStatistics:
    """Return the statistics of a file, a folder or batches; ``shown`` gets the first pictures."""
    if isinstance(source, str | Path):
        if Path(source).suffix == ".npz":
            return read_statistics(source)
        source = FolderPictures(Path(source), batch_size)
    features = picture_features(_keep(source, shown), network, batch_size)
    return FeatureStatistics.of(features, network.name)


def _keep(batches: Iterable[Tensor], shown: list[Tensor]) -> Iterator[Tensor]:
    """Hand on batches, and keep the first pictures as far as they are of one size."""
    for batch in batches:
        missing = SHOWN - sum(map(len, shown))
        if missing > 0 and (not shown or shown[0].shape[1:] == batch.shape[1:]):
            shown.append(batch[:missing].cpu())
        yield batch
