"""Style and perceptual distances on a small network and on the embedded one."""

import pytest
import torch
from torch import nn

from adjointdpm.features import FeatureNetwork, gram_matrix
from adjointdpm.objectives import GramStyle, PerceptualDistance, feature_distance


@pytest.fixture
def network() -> FeatureNetwork:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU())
    return FeatureNetwork(model.double().requires_grad_(False), ["1", "3"])


def pictures(count: int, seed: int, size: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, size, size, generator=generator, dtype=torch.float64)


def test_style_is_the_relative_distance_of_gram_matrices(network) -> None:
    images, reference = pictures(2, 0), pictures(1, 1)[0]
    style = GramStyle(network, reference, {"1": 1.0, "3": 3.0})
    expected = torch.zeros(2, dtype=torch.float64)
    for share, layer in ((0.25, "1"), (0.75, "3")):
        wanted = gram_matrix(network(reference[None])[layer])[0]
        for i in range(2):
            found = gram_matrix(network(images)[layer])[i]
            expected[i] += share * (found - wanted).norm() ** 2 / wanted.norm() ** 2
    torch.testing.assert_close(style(images), expected)
    assert not style.larger_is_better


def test_the_reference_has_its_own_style(network) -> None:
    reference = pictures(1, 1)[0]
    style = GramStyle(network, reference)
    assert style(reference[None]).abs().max() < 1e-20
    assert (style(pictures(3, 2)) > 1e-4).all()
    # Of another size, it has still its style, up to what happens at borders.
    assert style(reference.repeat(1, 3, 3)[None]) < 0.1 * style(1 - reference[None])


def test_several_references_have_a_mean_style(network) -> None:
    references = pictures(3, 1)
    style = GramStyle(network, references)
    grams = [gram_matrix(network(r[None])["3"])[0] for r in references]
    torch.testing.assert_close(style.get_buffer("_gram_1"), torch.stack(grams).mean(0))
    assert not style.get_buffer("_gram_1").requires_grad
    assert style.state_dict().keys() == network.state_dict(prefix="network.").keys()


@pytest.mark.parametrize("kind", [GramStyle, PerceptualDistance])
def test_gradients(network, kind) -> None:
    metric = kind(network, pictures(1, 1)[0])
    images = pictures(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(metric, images, fast_mode=True)


@pytest.mark.parametrize("kind", [GramStyle, PerceptualDistance])
def test_weights_are_those_of_the_layers(network, kind) -> None:
    with pytest.raises(ValueError, match="network's layers are 1, 3"):
        kind(network, pictures(1, 1)[0], {"1": 1.0})
    with pytest.raises(ValueError, match="at least 0"):
        kind(network, pictures(1, 1)[0], {"1": 1.0, "3": -1.0})


def test_a_reference_without_features_is_refused(network) -> None:
    black = FeatureNetwork(nn.Sequential(nn.ReLU()), ["0"])
    with pytest.raises(ValueError, match="no features at the layer '0'"):
        GramStyle(black, torch.zeros(3, 8, 8))


def test_perceptual_distance(network) -> None:
    images, others = pictures(2, 0), pictures(2, 1)
    metric = PerceptualDistance(network, others)
    assert torch.equal(metric(others), torch.zeros(2, dtype=torch.float64))
    one, two = metric(images), PerceptualDistance(network, images)(others)
    torch.testing.assert_close(one, two)
    assert ((one > 0) & (one < 4)).all()
    first = PerceptualDistance(network, others[0])(images)
    torch.testing.assert_close(first[0], one[0])
    torch.testing.assert_close(feature_distance(network(images), network(others)), one)
    with pytest.raises(ValueError, match="the same size"):
        metric(pictures(2, 0, size=10))
    with pytest.raises(ValueError, match="against 1"):
        feature_distance(network(images), network.at(["1"])(others))


def test_features_that_are_zero_have_a_finite_gradient() -> None:
    dark = FeatureNetwork(nn.Sequential(nn.ReLU()), ["0"])
    images = torch.zeros(1, 3, 4, 4).requires_grad_()
    PerceptualDistance(dark, torch.rand(3, 4, 4))(images).sum().backward()
    assert images.grad.isfinite().all()
