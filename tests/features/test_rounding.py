"""Rounded values are rounded, and gradients are those that were asked for."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.autograd import grad

from adjointdpm.features import exceeds, jpeg, quantize

X = torch.linspace(0.001, 0.999, 199, dtype=torch.float64)
PICTURES = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).double()
PICTURES = torch.nn.functional.interpolate(PICTURES, (32, 40), mode="bilinear")


@pytest.mark.parametrize("gradient", ["straight_through", "exact"])
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, g: quantize(x, 5, g), (X * 4).round() / 4),
        (lambda x, g: exceeds(x, 0.4, g, 0.1), (X > 0.4).double()),
    ],
)
def test_the_value_is_the_rounded_one(function, expected, gradient) -> None:
    torch.testing.assert_close(function(X, gradient), expected)


def test_gradients_are_those_that_were_asked_for() -> None:
    x = X.clone().requires_grad_()
    [through] = grad(quantize(x, 5).sum(), x)
    assert torch.equal(through, torch.ones_like(X))
    [through], [smooth] = (
        grad(exceeds(x, 0.4, gradient, 0.1).sum(), x) for gradient in ("straight_through", "smooth")
    )
    logistic = torch.sigmoid((X - 0.4) / 0.1)
    torch.testing.assert_close(through, logistic * (1 - logistic) / 0.1)
    torch.testing.assert_close(through, smooth)
    for function in (
        lambda x: quantize(x, 5, "exact"),
        lambda x: exceeds(x, 0.4, "exact"),
    ):
        assert not grad(function(x).sum(), x)[0].any()
    images = PICTURES.clone().requires_grad_()
    assert not grad(jpeg(images, 50, "exact").sum(), images)[0].any()
    assert torch.equal(grad(jpeg(images, 50).sum(), images)[0], torch.ones_like(images))


@given(st.integers(2, 20), st.floats(0.1, 50))
def test_soft_rounding_is_a_staircase(levels, sharpness) -> None:
    steps = torch.linspace(0, 1, levels, dtype=torch.float64)
    # Levels and the middles between them stay where they are, and it never falls.
    middles = (steps[1:] + steps[:-1]) / 2
    for fixed in (steps, middles):
        rounded = quantize(fixed, levels, "smooth", sharpness)
        torch.testing.assert_close(rounded, fixed, rtol=0, atol=1e-9)
    assert (quantize(X, levels, "smooth", sharpness).diff() > -1e-12).all()


def test_soft_rounding_lies_between_nothing_and_rounding() -> None:
    x = X.clone().requires_grad_()
    torch.testing.assert_close(quantize(X, 5, "smooth", 1e-3), X, rtol=0, atol=1e-6)
    apart = ((X * 4) % 1 - 0.5).abs() > 0.02
    sharp = quantize(X, 5, "smooth", 500.0)
    torch.testing.assert_close(sharp[apart], quantize(X, 5)[apart])
    assert torch.autograd.gradcheck(lambda x: quantize(x, 5, "smooth"), x, fast_mode=True)


def test_jpeg_is_pillows_and_the_smooth_one_is_near() -> None:
    for quality in (10, 75):
        ours = jpeg(PICTURES, quality)
        for picture, found in zip(PICTURES, ours, strict=True):
            pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=quality)
            expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
            torch.testing.assert_close(found, expected.double())
        change = (ours - PICTURES).abs().mean()
        assert (jpeg(PICTURES, quality, "smooth") - ours).abs().mean() < 0.5 * change
    images = PICTURES.clone().requires_grad_()
    assert grad(jpeg(images, 50, "smooth").square().sum(), images)[0].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantize(X, 1), "levels"),
        (lambda: quantize(X, sharpness=0.0), "sharpness"),
        (lambda: quantize(X, gradient="soft"), "straight_through, smooth, exact"),
        (lambda: exceeds(X, width=0.0), "width"),
        (lambda: exceeds(X, gradient="soft"), "straight_through, smooth, exact"),
        (lambda: jpeg(PICTURES, 0), "quality"),
        (lambda: jpeg(PICTURES, gradient="soft"), "straight_through, smooth, exact"),
    ],
)
def test_bad_settings(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
