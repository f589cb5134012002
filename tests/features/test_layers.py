"""Layers inside of a network are seen as they are, with their gradient, and leave no trace."""

import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from adjointdpm.features import FeatureNetwork, by_channel, gram_matrix, layer_outputs


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Sequential(nn.Conv2d(4, 5, 3), nn.Tanh()), nn.Flatten()
    ).double()


IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_outputs_are_those_of_the_layers() -> None:
    model = network()
    seen = layer_outputs(model, ["2.0", "1"], IMAGES)
    assert list(seen) == ["2.0", "1"]
    assert torch.equal(seen["1"], model[:2](IMAGES))
    assert torch.equal(seen["2.0"], model[2][0](model[:2](IMAGES)))
    assert not any(m._forward_hooks for m in model.modules())
    with torch.inference_mode():
        assert torch.equal(layer_outputs(model, ["1"], IMAGES)["1"], seen["1"])


def test_gradients_are_those_of_the_layers() -> None:
    model = network().requires_grad_(False)
    images = IMAGES.clone().requires_grad_()
    seen = layer_outputs(model, ["1", "2"], images)
    [ours] = torch.autograd.grad(sum(s.square().sum() for s in seen.values()), images)
    middle = model[:2](images)
    loss = middle.square().sum() + model[2](middle).square().sum()
    [expected] = torch.autograd.grad(loss, images)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_call_that_is_run_again_collects_again(reentrant) -> None:
    model = network()
    images = IMAGES.clone().requires_grad_()

    def metric(images):
        return layer_outputs(model, ["2"], images)["2"].square().sum()

    checkpoint(metric, images, use_reentrant=reentrant).backward()
    torch.testing.assert_close(images.grad, torch.autograd.grad(metric(images), images)[0])


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.inner = network()
        self.reentrant = reentrant

    def forward(self, images):
        return checkpoint(self.inner, images, use_reentrant=self.reentrant)


def test_a_layer_in_a_checkpoint_has_its_gradient_or_is_refused() -> None:
    images = IMAGES.clone().requires_grad_()
    good, bad = Checkpointed(False), Checkpointed(True)
    [ours] = torch.autograd.grad(layer_outputs(good, ["inner.1"], images)["inner.1"].sum(), images)
    [expected] = torch.autograd.grad(good.inner[:2](images).sum(), images)
    torch.testing.assert_close(ours, expected)
    with pytest.raises(ValueError, match="reentrant checkpoint"):
        layer_outputs(bad, ["inner.1"], images)
    assert not any(m._forward_hooks for m in bad.modules())


def test_what_would_be_wrong_is_refused() -> None:
    twice = nn.Tanh()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), twice, twice).double()
    with pytest.raises(ValueError, match="written into by a later one"):
        layer_outputs(model, ["0"], IMAGES)
    with pytest.raises(ValueError, match="called 2 times"):
        layer_outputs(model, ["2"], IMAGES)
    with pytest.raises(ValueError, match=r"no layer 'conv1'; did you mean"):
        layer_outputs(model, ["conv1"], IMAGES)
    model.unused = nn.Linear(1, 1)
    model.forward = lambda images: images
    with pytest.raises(ValueError, match="called 0 times"):
        layer_outputs(model, ["unused"], IMAGES)


def test_threads_do_not_see_each_other() -> None:
    """Another thread calls the model while this one is in the middle of a call."""
    model = network()
    other = threading.Thread(target=lambda: model(IMAGES + 1))

    class Interrupted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images):
            other.start()
            other.join()
            return self.model(images)

    seen = layer_outputs(Interrupted(), ["model.1"], IMAGES)["model.1"]
    assert torch.equal(seen, model[:2](IMAGES))


def test_a_feature_network_stays_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout()).double()
    features = FeatureNetwork(model, ["1"], lambda images: images * 2, name="mine")
    nn.ModuleList([features]).train()
    assert torch.equal(features(IMAGES)["1"], model[0](IMAGES * 2))
    assert features.at(["0"]).layers == ("0",)
    assert features.at(["0"]).name == "mine"
    assert torch.equal(features.vectors(IMAGES), model[0](IMAGES * 2).mean((2, 3)))
    with pytest.raises(ValueError, match="a list of at least one name"):
        FeatureNetwork(model, "1")


def test_gram_matrices() -> None:
    features = torch.rand(2, 4, 3, 5, dtype=torch.float64)
    gram = gram_matrix(features)
    expected = torch.einsum("bchw,bdhw->bcd", features, features) / 15
    torch.testing.assert_close(gram, expected)
    tokens = features.flatten(2).mT
    torch.testing.assert_close(gram_matrix(tokens), expected)
    # Where something is makes no difference, and neither does how often the pattern is repeated.
    torch.testing.assert_close(gram_matrix(features.roll((1, 2), (2, 3))), gram)
    torch.testing.assert_close(gram_matrix(features.repeat(1, 1, 2, 3)), gram)
    with pytest.raises(ValueError, match="features must be"):
        by_channel(torch.zeros(3))
