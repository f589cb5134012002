"""Models of the tools of attack as targets, and ours, noise to logits, under their attacks."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from tiny_pipeline import build_pipeline, write_classifier
from torch import Tensor, nn

import adjointdpm as adp
from adjointdpm.objectives import ImageClassifier
from adjointdpm.targets import NoiseClassifier, from_art, from_foolbox, to_art, to_foolbox

BOUND = 0.5

with_art = pytest.mark.skipif(
    find_spec("art") is None, reason="adversarial-robustness-toolbox is not installed"
)
with_foolbox = pytest.mark.skipif(find_spec("foolbox") is None, reason="foolbox is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> NoiseClassifier:
    pipe = build_pipeline(tmp_path_factory.mktemp("tokenizer"))
    sampler, decode = adp.from_pipeline(pipe, 2, 1.0)
    cond = adp.encode_prompt(pipe, ["a"], guidance=False)
    folder = write_classifier(tmp_path_factory.mktemp("classifier"))
    classifier = ImageClassifier.from_pretrained(folder)
    return NoiseClassifier(sampler, decode, classifier, **cond).eval()


@pytest.fixture(scope="module")
def noise() -> Tensor:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def loss_and_gradient(model: nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    losses = nn.functional.cross_entropy(model(x), labels, reduction="none")
    return losses.detach(), torch.autograd.grad(losses.sum(), x)[0]


def test_noise_to_logits_is_sampler_decoder_classifier(model, noise) -> None:
    cond = {name: t.expand(3, -1, -1) for name, t in model._cond.items()}
    expected = model.classifier(model.decode(model.sampler(noise, **cond)))
    torch.testing.assert_close(model(noise), expected)
    parts = model.sampler, model.decode, model.classifier
    each = NoiseClassifier(*parts, **cond)
    torch.testing.assert_close(each(noise), expected)
    with pytest.raises(ValueError, match="conditioning for 3 samples, but a batch of 2"):
        each(noise[:2])


@with_foolbox
def test_foolbox_attacks_noises(model, noise) -> None:
    from foolbox.attacks import LinfProjectedGradientDescentAttack

    labels = model(noise).argmax(1)
    attack = LinfProjectedGradientDescentAttack(steps=4, rel_stepsize=0.5, random_start=False)
    fmodel = to_foolbox(model)
    torch.testing.assert_close(fmodel(noise), model(noise))
    _, found, fooled = attack(fmodel, noise, labels, epsilons=BOUND)
    assert (found - noise).abs().max() <= BOUND + 1e-6
    assert torch.equal(fooled, model(found).argmax(1) != labels)
    # One step of it goes exactly where our own gradient points: uphill, where it is small.
    before, gradient = loss_and_gradient(model, noise, labels)
    step = LinfProjectedGradientDescentAttack(steps=1, abs_stepsize=1e-3, random_start=False)
    _, first, _ = step(fmodel, noise, labels, epsilons=BOUND)
    torch.testing.assert_close(first, noise + 1e-3 * gradient.sign())
    assert (loss_and_gradient(model, first, labels)[0] > before).all()


@with_art
def test_art_attacks_noises(model, noise) -> None:
    from art.attacks.evasion import AutoProjectedGradientDescent

    labels = model(noise).argmax(1)
    estimator = to_art(model, noise.shape[1:])
    one_hot = np.eye(len(model.labels), dtype=np.float32)[labels.numpy()]
    torch.testing.assert_close(
        torch.from_numpy(estimator.predict(noise.numpy())), model(noise), atol=1e-5, rtol=1e-5
    )
    gradient = loss_and_gradient(model, noise, labels)[1]
    theirs = torch.from_numpy(estimator.loss_gradient(noise.numpy(), one_hot))
    # ART's loss is a mean over the batch.
    torch.testing.assert_close(theirs * len(noise), gradient, atol=1e-6, rtol=1e-3)
    attack = AutoProjectedGradientDescent(
        estimator, eps=BOUND, eps_step=BOUND / 2, max_iter=3, nb_random_init=1, verbose=False,
        loss_type="cross_entropy", batch_size=len(noise),
    )  # fmt: skip
    np.random.seed(0)
    found = torch.from_numpy(attack.generate(noise.numpy(), one_hot))
    # It begins at random within the bound, so that in three steps a loss may end where it was.
    assert BOUND / 2 < (found - noise).abs().max() <= BOUND + 1e-6


class Linear(nn.Module):
    """Logits that are linear in the pixels, so that preprocessing can be undone by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


MEAN, STD = np.float32([0.2, 0.3, 0.4]), np.float32([0.5, 0.6, 0.7])


@with_art
def test_classifiers_of_art_as_targets() -> None:
    from art.defences.preprocessor import SpatialSmoothing
    from art.estimators.classification import PyTorchClassifier

    settings = {
        "model": Linear(),
        "loss": nn.CrossEntropyLoss(),
        "input_shape": (3, 4, 4),
        "nb_classes": 5,
        "preprocessing": (MEAN, STD),
        "device_type": "cpu",
    }
    theirs = PyTorchClassifier(clip_values=(-1.0, 1.0), **settings)
    target = from_art(theirs, list("abcde"))
    images = torch.rand(2, 3, 4, 4)
    expected = torch.from_numpy(theirs.predict(2 * images.numpy() - 1))
    torch.testing.assert_close(target(images), expected)
    labels = torch.tensor([1, 3])
    _, gradient = loss_and_gradient(target, images, labels)
    one_hot = np.eye(5, dtype=np.float32)[labels.numpy()]
    # Pixels of ART's range are twice as wide as ours, and its loss is the mean of two.
    by_art = torch.from_numpy(theirs.loss_gradient(2 * images.numpy() - 1, one_hot)) * 2 * 2
    torch.testing.assert_close(gradient, by_art, atol=1e-6, rtol=1e-4)
    assert target(torch.rand(1, 3, 9, 9)).shape == (1, 5)
    with pytest.raises(ValueError, match="no clip_values"):
        from_art(PyTorchClassifier(**settings), list("abcde"))
    blurred = PyTorchClassifier(
        clip_values=(0.0, 1.0), preprocessing_defences=[SpatialSmoothing()], **settings
    )
    with pytest.raises(ValueError, match="in NumPy"):
        from_art(blurred, list("abcde"))


@with_foolbox
def test_models_of_foolbox_as_targets() -> None:
    import foolbox

    preprocessing = {"mean": torch.tensor(MEAN), "std": torch.tensor(STD), "axis": -3}
    theirs = foolbox.PyTorchModel(
        Linear().eval(), bounds=(0, 255), preprocessing=preprocessing, device="cpu"
    )
    target = from_foolbox(theirs, list("abcde"))
    images = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(target(images), theirs(255 * images))
    images = images.requires_grad_()
    theirs_of = 255 * images.detach()
    _, gradient = loss_and_gradient(target, images.detach(), torch.tensor([1, 3]))
    _, expected = loss_and_gradient(theirs, theirs_of, torch.tensor([1, 3]))
    torch.testing.assert_close(gradient, 255 * expected)


@with_foolbox
def test_a_target_goes_out_and_comes_back(model) -> None:
    images = torch.rand(2, 3, 16, 16)
    again = from_foolbox(to_foolbox(model.classifier), model.labels)
    for target in (again, from_foolbox(to_foolbox(again), model.labels)):
        torch.testing.assert_close(target(images), model.classifier(images))
