"""Every objective says its direction, and sums keep it."""

import pytest
import torch
from torch import Tensor, nn

from adjointdpm.objectives import (
    PictureDistance,
    RandomViews,
    WeightedSum,
    as_objective,
    load_objective,
)

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def brightness(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


class Noisy(nn.Module):
    """A user's module that draws."""

    larger_is_better = False

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.rand(len(images), generator=generator)


def test_the_loss_falls_where_the_metric_gets_better() -> None:
    bright = as_objective(brightness, larger_is_better=True)
    dark = as_objective(brightness, larger_is_better=False)
    assert torch.equal(bright(IMAGES), brightness(IMAGES))
    assert torch.equal(bright.loss(IMAGES), -brightness(IMAGES))
    assert torch.equal(dark.loss(IMAGES), brightness(IMAGES))


def test_a_direction_is_never_guessed() -> None:
    with pytest.raises(ValueError, match=r"brightness\.larger_is_better = True"):
        as_objective(brightness)
    with pytest.raises(ValueError, match=r"a larger brightness is better"):
        WeightedSum({"bright": (1.0, brightness)})
    with pytest.raises(ValueError, match="is False, but True was asked for"):
        as_objective(PictureDistance(IMAGES[0]), larger_is_better=True)
    said = as_objective(Noisy())
    assert said.larger_is_better is False
    assert as_objective(said) is said


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda images: brightness(images.detach()), "the objective has no gradient"),
        (lambda images: torch.ones(len(images)), "the objective has no gradient"),
        (lambda images: brightness(images).round().long(), "returned torch.int64"),
        (lambda images: brightness(images) > 0.5, "returned torch.bool"),
    ],
)
@pytest.mark.parametrize("num_views", [0, 2])
def test_an_objective_without_a_gradient_is_told(function, error, num_views) -> None:
    objective = as_objective(function, larger_is_better=True)
    if num_views:
        objective = RandomViews(objective, num_views)
    images = IMAGES.clone().requires_grad_()
    with pytest.raises((TypeError, ValueError), match=error):
        objective.loss(images)


def test_what_an_objective_does_to_its_pictures_does_not_reach_others() -> None:
    def halved(images: Tensor) -> Tensor:
        return brightness(images.mul_(0.5))

    images = IMAGES.clone().requires_grad_()
    loss = as_objective(halved, larger_is_better=False).loss(images)
    assert torch.equal(images, IMAGES)
    torch.testing.assert_close(loss, brightness(IMAGES) / 2)
    loss.sum().backward()
    torch.testing.assert_close(images.grad, torch.full_like(IMAGES, 0.5 / (3 * 8 * 8)))


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda images: images.mean(), "for 3 pictures; return one number a picture"),
        (lambda images: images.mean((2, 3)), r"\(3, 3\)"),
    ],
)
def test_not_one_number_a_picture_is_an_error(function, error) -> None:
    with pytest.raises(ValueError, match=error):
        as_objective(function, larger_is_better=True)(IMAGES)
    with pytest.raises(TypeError, match="a float, no tensor"):
        as_objective(lambda images: 1.0, larger_is_better=True)(IMAGES)


def test_who_draws_gets_the_generator() -> None:
    views = RandomViews(Noisy(), num_views=2)
    for objective in (as_objective(Noisy()), views, WeightedSum({"noisy": (1.0, Noisy())})):
        before = torch.get_rng_state()
        drawn = [objective(IMAGES, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
        assert torch.equal(before, torch.get_rng_state())


def test_a_sum_adds_losses() -> None:
    near, bright = PictureDistance(IMAGES[0]), as_objective(brightness, larger_is_better=True)
    both = WeightedSum({"near": (0.5, near), "bright": (2.0, bright)})
    terms = both.terms(IMAGES)
    assert torch.equal(terms["near"], near(IMAGES))
    assert torch.equal(terms["bright"], bright(IMAGES))
    expected = 0.5 * near(IMAGES) - 2 * brightness(IMAGES)
    torch.testing.assert_close(both.loss(IMAGES), expected)
    torch.testing.assert_close(both.combine(terms), expected)
    nested = WeightedSum({"both": (3.0, both)})
    torch.testing.assert_close(nested.loss(IMAGES), 3 * expected)


def test_a_sum_needs_terms_and_finite_weights() -> None:
    with pytest.raises(ValueError, match="at least one term"):
        WeightedSum({})
    with pytest.raises(ValueError, match="'near' is nan"):
        WeightedSum({"near": (float("nan"), PictureDistance(IMAGES[0]))})


MODULE = """
import torch
from adjointdpm.objectives import PictureDistance

def brightness(images):
    return images.mean((1, 2, 3))

brightness.larger_is_better = True

def undirected(images):
    return images.mean((1, 2, 3))

class Darkness(torch.nn.Module):
    larger_is_better = False
    def forward(self, images):
        return images.mean((1, 2, 3))

class Needy(Darkness):
    def __init__(self, strength, *, other=1):
        super().__init__()

class Holder:
    near = PictureDistance(torch.zeros(3, 8, 8))

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch) -> str:
    name = f"metrics_of_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_broken.py").write_text("import no_such_library")
    monkeypatch.chdir(tmp_path)
    return name


def test_own_objectives_are_loaded_by_name(module) -> None:
    bright = load_objective(f"{module}:brightness")
    assert bright.larger_is_better
    assert torch.equal(bright(IMAGES), brightness(IMAGES))
    assert not load_objective(f"{module}:Darkness").larger_is_better
    assert isinstance(load_objective(f"{module}:Holder.near"), PictureDistance)
    assert load_objective(f"{module}:undirected", larger_is_better=True).larger_is_better


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("{}", ValueError, "write module:name"),
        ("{}:", ValueError, "write module:name"),
        ("no_such_module.deep:f", ValueError, "no module 'no_such_module'"),
        ("{}_broken:f", ValueError, "imports 'no_such_library', which is not installed"),
        ("{}:brigthness", ValueError, "did you mean brightness"),
        ("{}:undirected", ValueError, "larger undirected is better"),
        ("{}:number", TypeError, "is a int and cannot be called"),
        ("{}:Needy", TypeError, "a class that needs strength"),
    ],
)
def test_a_name_that_is_wrong_says_what_is_missing(module, name, error, message) -> None:
    with pytest.raises(error, match=message):
        load_objective(name.format(module))
