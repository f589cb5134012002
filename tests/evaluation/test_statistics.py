"""FID of statistics is that of SciPy's matrix root, and statistics files are those of others."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from adjointdpm.evaluation import (
    FeatureStatistics,
    frechet_distance,
    read_statistics,
    statistics_distance,
    write_statistics,
)


def features(count: int, size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return torch.randn(count, size, generator=generator, dtype=torch.float64) @ mix + seed % 3


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 12), count=st.integers(13, 40), seed=st.integers(0, 1000))
def test_frechet_distance_is_that_of_scipys_matrix_root(size: int, count: int, seed: int) -> None:
    first, second = (FeatureStatistics.of(features(count, size, seed + i)) for i in (0, 1))
    a, b = first.covariance.numpy(), second.covariance.numpy()
    means = float((first.mean - second.mean).square().sum())
    expected = means + np.trace(a + b - 2 * sqrtm(a @ b).real)
    size_of = means + np.trace(a + b)
    assert frechet_distance(first, second) == pytest.approx(expected, abs=1e-6 * size_of)
    assert frechet_distance(second, first) == pytest.approx(expected, abs=1e-6 * size_of)
    assert abs(frechet_distance(first, first)) < 1e-6 * size_of


def test_frechet_distance_of_fewer_pictures_than_features() -> None:
    """Covariances without an inverse: the distance is that of the subspace."""
    few = features(5, 12, 0)
    first, other = FeatureStatistics.of(few), FeatureStatistics.of(2 * few)
    apart = float((first.mean - other.mean).square().sum() + first.covariance.trace())
    assert frechet_distance(first, other) == pytest.approx(apart, rel=1e-6)


def test_files_come_back_as_they_were(tmp_path: Path) -> None:
    statistics = FeatureStatistics.of(features(20, 4, 0).float(), "some network")
    write_statistics(tmp_path / "all.npz", statistics)
    found = read_statistics(tmp_path / "all.npz")
    assert torch.equal(found.mean, statistics.mean)
    assert torch.equal(found.covariance, statistics.covariance)
    assert found.features is not None
    assert torch.equal(found.features, features(20, 4, 0).float().double())
    assert (found.num_pictures, found.feature_network) == (20, "some network")
    write_statistics(tmp_path / "few.npz", statistics, with_features=False)
    few = read_statistics(tmp_path / "few.npz")
    assert few.features is None
    assert few.scale == pytest.approx(float(features(20, 4, 0).square().mean().sqrt()), rel=1e-6)
    distance = statistics_distance(few, found)
    assert distance.kid is None
    assert "no KID" in str(distance)
    assert abs(distance.fid) < 1e-6


def test_files_of_pytorch_fid_and_clean_fid(tmp_path: Path) -> None:
    values = features(20, 4, 0).numpy()
    mu, sigma = values.mean(0), np.cov(values, rowvar=False)
    np.savez_compressed(tmp_path / "pytorch.npz", mu=mu, sigma=sigma)
    np.savez(tmp_path / "kid.npz", feats=values)
    first, second = (read_statistics(tmp_path / n) for n in ("pytorch.npz", "kid.npz"))
    assert first.num_pictures is None
    assert torch.allclose(first.mean, second.mean)
    assert torch.allclose(first.covariance, second.covariance)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    path.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="no statistics file"):
        read_statistics(path)
    np.savez(path, arr_0=np.zeros(3))
    with pytest.raises(ValueError, match="holds arr_0"):
        read_statistics(path)
    np.savez(path, mu=np.array([None]), sigma=np.zeros((1, 1)))
    with pytest.raises(ValueError, match="no statistics file"):
        read_statistics(path)
    np.savez(path, mu=np.zeros(2), sigma=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="do not belong together"):
        read_statistics(path)
    np.savez(path, mu=np.full(1, np.nan), sigma=np.zeros((1, 1)))
    with pytest.raises(ValueError, match="not finite"):
        read_statistics(path)


def test_features_of_two_networks_are_not_compared() -> None:
    first, second = (FeatureStatistics.of(features(9, 4, 0), name) for name in ("a", "b"))
    with pytest.raises(ValueError, match="4 of a and 4 of b"):
        statistics_distance(first, second)
    with pytest.raises(ValueError, match="one network"):
        statistics_distance(first, FeatureStatistics.of(features(9, 3, 0)))
