"""KID and FID are those of their definitions, and say what they were measured with."""

import pytest
import torch
from torch import nn

from adjointdpm.evaluation import diversity, set_distance
from adjointdpm.features import FeatureNetwork
from adjointdpm.objectives import PerceptualDistance


@pytest.fixture
def network() -> FeatureNetwork:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    return FeatureNetwork(model.double().requires_grad_(False), ["1"], name="small")


def pictures(count: int, seed: int, contrast: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(count, 3, 8, 8, generator=generator, dtype=torch.float64)
    return (0.5 + contrast * (values - 0.5)).mul(255).round().div(255)


def test_kid_of_all_pictures_is_its_definition(network) -> None:
    images, reference = pictures(10, 0), pictures(10, 1, 0.5)
    result = set_distance(images, reference, network, subset_size=10, normalize=False)
    x, y = network.vectors(images), network.vectors(reference)

    def kernel(a, b):
        return (a @ b.mT / 6 + 1) ** 3

    apart = 1 - torch.eye(10, dtype=torch.float64)
    within = ((kernel(x, x) + kernel(y, y)) * apart).sum() / 90
    assert result.kid == pytest.approx(float(within - 2 * kernel(x, y).mean()), rel=1e-9)
    assert result.kid_std < 1e-12
    assert (result.subset_size, result.num_pictures) == (10, (10, 10))
    assert (result.feature_network, result.num_features) == ("small", 6)
    assert "10 pictures against 10, 6 features of small" in str(result)


def test_fid_is_its_definition(network) -> None:
    images, reference = pictures(40, 0), pictures(30, 1, 0.5)
    x, y = network.vectors(images), network.vectors(reference)
    cx, cy = x.T.cov(), y.T.cov()
    values, vectors = torch.linalg.eigh(cx)
    root = vectors * values.sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cy @ root).clamp(min=0).sqrt().sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + cx.trace() + cy.trace() - 2 * cross
    result = set_distance(images, reference, network)
    assert result.feature_scale == pytest.approx(float(y.square().mean().sqrt()))
    assert result.fid * result.feature_scale**2 == pytest.approx(float(expected), rel=1e-6)


def test_distances_are_those_of_torchmetrics_with_the_network_inside(network) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    class Vectors(nn.Module):
        num_features = 6

        def forward(self, images):
            return network.vectors(images)

    images, reference = pictures(12, 0), pictures(12, 1, 0.5)
    kid = KernelInceptionDistance(Vectors(), subsets=1, subset_size=12)
    fid = FrechetInceptionDistance(Vectors())
    for metric in (kid, fid):
        metric.update(reference, real=True)
        metric.update(images, real=False)
    result = set_distance(images, reference, network, subset_size=12, normalize=False, batch_size=5)
    assert result.kid == pytest.approx(float(kid.compute()[0]), rel=1e-9)
    assert result.fid == pytest.approx(float(fid.compute()), rel=1e-6)


def test_distances_tell_sets_apart(network) -> None:
    same = set_distance(pictures(60, 0), pictures(60, 1), network)
    other = set_distance(pictures(60, 0), pictures(60, 1, 0.5), network)
    assert abs(same.kid) < 0.2 * other.kid
    assert same.fid < 0.2 * other.fid


def test_distances_do_not_depend_on_the_scale_of_features(network) -> None:
    images, reference = pictures(20, 0), pictures(20, 1, 0.5)
    result = set_distance(images, reference, network)
    network.model[0].weight.mul_(1000)
    network.model[0].bias.mul_(1000)
    larger = set_distance(images, reference, network)
    assert larger.feature_scale == pytest.approx(1000 * result.feature_scale)
    assert (larger.kid, larger.fid) == pytest.approx((result.kid, result.fid))


def test_subsets_are_drawn_from_the_seed_alone(network) -> None:
    before = torch.get_rng_state()
    results = [
        set_distance(pictures(20, 0), pictures(15, 1), network, num_subsets=4, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert results[0] == results[1]
    assert results[0].kid != results[2].kid
    assert results[0].subset_size == 7
    assert torch.equal(before, torch.get_rng_state())


def test_sets_that_are_too_small(network) -> None:
    with pytest.raises(ValueError, match="at least 2 a subset"):
        set_distance(pictures(3, 0), pictures(20, 1), network)
    with pytest.raises(ValueError, match="subsets of 21 cannot be drawn"):
        set_distance(pictures(20, 0), pictures(20, 1), network, subset_size=21)
    with pytest.raises(ValueError, match="at least 2"):
        diversity(pictures(1, 0), network)


def test_diversity_is_the_mean_over_pairs(network) -> None:
    images = pictures(4, 0)
    pairs = [
        PerceptualDistance(network, images[i])(images[j : j + 1])
        for i in range(4)
        for j in range(4)
        if i != j
    ]
    assert diversity(images, network) == pytest.approx(float(torch.cat(pairs).mean()))
    assert diversity(images[:1].expand(3, -1, -1, -1), network) == 0.0
