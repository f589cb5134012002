"""Distances and similarities of pictures, pixel by pixel."""

import pytest
import torch

from adjointdpm.objectives import PictureDistance, StructuralSimilarity


def pictures(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 16, 18, generator=generator, dtype=torch.float64)


def test_picture_distance() -> None:
    reference = torch.zeros(3, 4, 4)
    distance = PictureDistance(reference)
    assert distance(torch.full((2, 3, 4, 4), 0.5)).tolist() == [0.25, 0.25]


@pytest.mark.parametrize("kind", [PictureDistance, StructuralSimilarity])
def test_pictures_that_cannot_be_compared(kind) -> None:
    metric = kind(pictures(2, 0))
    for images in (pictures(3, 1), pictures(1, 1), pictures(2, 1)[..., 1:]):
        with pytest.raises(ValueError, match="cannot be compared"):
            metric(images)


def test_structural_similarity_is_that_of_the_paper() -> None:
    """One window, by the formula of Wang et al. (2004), at a place where no border is near."""
    images, reference = pictures(1, 0), pictures(1, 1)
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, full = structural_similarity_index_measure(
        images, reference, data_range=1.0, return_full_image=True
    )
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = window[:, None] * window
    window /= window.sum()
    x, y = images[0, 0, 3:14, 4:15], reference[0, 0, 3:14, 4:15]
    mx, my = (window * x).sum(), (window * y).sum()
    vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
    cov = (window * (x - mx) * (y - my)).sum()
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    torch.testing.assert_close(full[0, 0, 8, 9], expected)
    torch.testing.assert_close(StructuralSimilarity(reference)(images), full.mean((1, 2, 3)))


def test_structural_similarity_is_largest_at_the_reference() -> None:
    reference = pictures(2, 0)
    metric = StructuralSimilarity(reference)
    assert metric.larger_is_better
    torch.testing.assert_close(metric(reference), torch.ones(2, dtype=torch.float64))
    assert (metric(pictures(2, 1)) < 0.5).all()
    assert metric(pictures(2, 1)).shape == (2,)
    assert StructuralSimilarity(reference[0])(pictures(1, 1)).shape == (1,)
    images = pictures(2, 1).requires_grad_()
    assert torch.autograd.gradcheck(metric, images, fast_mode=True)
    with pytest.raises(ValueError, match="too small"):
        StructuralSimilarity(torch.rand(3, 5, 8))(torch.rand(1, 3, 5, 8))
