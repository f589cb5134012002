"""Objectives made of another one keep its direction, or turn it into a success."""

import pytest
import torch

from adjointdpm.objectives import PictureDistance, Thresholded, Transformed, as_objective

IMAGES = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
bright = as_objective(lambda images: images.mean((1, 2, 3)), larger_is_better=True)
near = PictureDistance(IMAGES[0])


@pytest.mark.parametrize("metric", [bright, near])
def test_a_transformed_metric_keeps_its_direction(metric) -> None:
    halved = Transformed(metric, lambda images: images / 2)
    assert torch.equal(halved.loss(IMAGES), metric.loss(IMAGES / 2))


@pytest.mark.parametrize("metric", [bright, near])
def test_better_than_the_threshold_is_a_success(metric) -> None:
    values = metric(IMAGES)
    threshold = float(values.median() + 1e-6)
    success = Thresholded(metric, threshold, width=0.1)
    better = values > threshold if metric.larger_is_better else values < threshold
    assert torch.equal(success(IMAGES), better.float())
    assert success.larger_is_better
    # Whichever way is better, the gradient of a success follows that of the metric.
    images = IMAGES.clone().requires_grad_()
    ours, its = (
        torch.autograd.grad(m.loss(images).sum(), images)[0].flatten(1) for m in (success, metric)
    )
    cosines = torch.nn.functional.cosine_similarity(ours, its)[its.any(1)]
    torch.testing.assert_close(cosines, torch.ones_like(cosines))
