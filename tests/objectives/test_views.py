"""Random views are what they say, and are drawn from the generator they are given."""

import pytest
import torch

from adjointdpm.features import adjust_color
from adjointdpm.objectives import RandomCutouts, RandomViews, as_objective

square = as_objective(lambda images: images.square().flatten(1).mean(1), larger_is_better=False)


def pictures(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    "views",
    [RandomViews(square, 3, max_color=0.1), RandomCutouts(square, 6, 3)],
    ids=["views", "cutouts"],
)
def test_views_are_drawn_from_the_generator(views) -> None:
    images = 0.4 * pictures(2, 3, 8, 10) + 0.3  # no colour is clamped
    before = torch.get_rng_state()
    first = views(images, torch.Generator().manual_seed(0))
    assert torch.equal(first, views(images, torch.Generator().manual_seed(0)))
    assert not torch.equal(first, views(images, torch.Generator().manual_seed(1)))
    assert torch.equal(before, torch.get_rng_state())
    generator = torch.Generator().manual_seed(0)
    seen = [views.view(images, generator) for _ in range(3)]
    torch.testing.assert_close(first, torch.stack([square(view) for view in seen]).mean(0))
    assert views.larger_is_better is False

    def metric(images):
        return views(images, torch.Generator().manual_seed(0))

    assert torch.autograd.gradcheck(metric, images.requires_grad_(), fast_mode=True)


def test_views_without_any_change_are_the_picture() -> None:
    images = pictures(2, 3, 8, 6)
    still = RandomViews(square, max_rotation=0, max_shift=0, max_zoom=0, noise=0)
    torch.testing.assert_close(still.view(images), images)
    whole = RandomCutouts(square, 6, min_share=1.0)
    torch.testing.assert_close(whole.view(images[..., :6, :]), images[..., :6, :])


def test_views_shift_by_the_share_they_say() -> None:
    column = torch.zeros(1, 3, 100, 100)
    column[..., 50] = 1.0
    mover = RandomViews(square, max_rotation=0, max_shift=0.08, max_zoom=0, noise=0)
    generator = torch.Generator().manual_seed(0)
    places = [int(mover.view(column, generator)[0, 0, 50].argmax()) for _ in range(50)]
    assert 42 <= min(places) < 46
    assert 54 < max(places) <= 58


def test_views_turn_wide_pictures_without_shearing_them() -> None:
    """A disc stays a disc, of the same area, whatever the shape of the picture."""
    y, x = torch.meshgrid(torch.arange(64.0) - 31.5, torch.arange(128.0) - 63.5, indexing="ij")
    disc = ((x**2 + y**2) < 400).float().expand(4, 3, -1, -1)
    turned = RandomViews(square, max_rotation=90, max_shift=0, max_zoom=0, noise=0).view(disc)
    assert (turned - disc).abs().mean() < 0.01


def test_cutouts_are_parts_of_the_picture() -> None:
    ramp = (torch.arange(40.0) / 40).expand(1, 3, 30, 40)
    cutouts = RandomCutouts(square, 10, min_share=0.3)
    generator = torch.Generator().manual_seed(0)
    seen = [cutouts.view(ramp, generator)[0, 0, 5] for _ in range(40)]
    assert all(view.shape == (10,) for view in seen)
    widths = torch.stack([(view[-2] - view[1]) * 40 / 7 * 10 for view in seen])
    assert ((widths > 8.5) & (widths < 30.5)).all()
    assert widths.min() < 13
    assert widths.max() > 25
    with pytest.raises(ValueError, match="min_share"):
        RandomCutouts(square, 10, min_share=0.0)


def test_colours_change_as_in_kornia_and_keep_their_gradient_where_it_clamps() -> None:
    from kornia import enhance

    images = pictures(2, 3, 5, 4) * 0.5 + 0.25
    factors = torch.tensor([[0.9, 1.1], [1.2, 0.7], [0.6, 1.3]], dtype=torch.float64)
    expected = enhance.adjust_brightness_accumulative(images, factors[0])
    expected = enhance.adjust_contrast_with_mean_subtraction(expected, factors[1])
    expected = enhance.adjust_saturation_with_gray_subtraction(expected, factors[2])
    torch.testing.assert_close(adjust_color(images, *factors), expected)
    white = torch.ones(1, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    brighter = adjust_color(white, *torch.tensor([[1.5], [1.0], [1.0]]))
    assert torch.equal(brighter, torch.ones_like(white))
    brighter.sum().backward()
    torch.testing.assert_close(white.grad, torch.full_like(white, 1.5))


def test_views_with_much_noise_are_still_pictures_for_a_classifier() -> None:
    images = torch.tensor([0.0, 1.0]).expand(1, 3, 64, 2)
    noisy = RandomViews(square, max_rotation=0, max_shift=0, max_zoom=0, noise=0.3)
    view = noisy.view(images, torch.Generator().manual_seed(0))
    assert view.min() >= -0.5
    assert view.max() <= 1.5
    assert (view - images).std() > 0.2


def test_there_is_at_least_one_view() -> None:
    with pytest.raises(ValueError, match="num_views"):
        RandomViews(square, num_views=0)
