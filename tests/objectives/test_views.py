"""Random views are what they say, and are drawn from the generator they are given."""

import pytest
import torch

from adjointdpm.objectives import RandomViews, as_objective

square = as_objective(lambda images: images.square().flatten(1).mean(1), larger_is_better=False)


def test_random_views_are_drawn_from_the_generator():
    images = torch.rand(2, 3, 8, 8)
    views = RandomViews(square, num_views=3)
    first = views(images, torch.Generator().manual_seed(0))
    assert torch.equal(first, views(images, torch.Generator().manual_seed(0)))
    assert not torch.equal(first, views(images, torch.Generator().manual_seed(1)))
    with pytest.raises(ValueError, match="num_views"):
        RandomViews(views.metric, num_views=0)


def test_views_without_any_change_are_the_picture():
    images = torch.rand(2, 3, 8, 6, dtype=torch.float64)
    still = RandomViews(square, max_rotation=0, max_shift=0, max_zoom=0, noise=0)
    torch.testing.assert_close(still.view(images), images)


def test_views_shift_by_the_share_they_say():
    column = torch.zeros(1, 3, 100, 100)
    column[..., 50] = 1.0
    mover = RandomViews(square, max_rotation=0, max_shift=0.08, max_zoom=0, noise=0)
    places = [int(mover.view(column)[0, 0, 50].argmax()) for _ in range(50)]
    assert 42 <= min(places) < 46
    assert 54 < max(places) <= 58
