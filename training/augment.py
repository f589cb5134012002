"""Augmentation. All functions take and return (n, 3, h, w) in [-1, 1], on any device; 1 is white.

`augment` is for the classifiers: they learn from few pictures and must read drawn ones. `vary` is
for the model that draws: there is one picture per caption and style, and a model that is shown
nothing else draws it from every noise. What `vary` does to a picture, the noise has to decide.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def uniform(n: int, low: float, high: float, device: torch.device) -> torch.Tensor:
    return torch.empty(n, device=device).uniform_(low, high)


def affine(
    x: torch.Tensor,
    *,
    angle: torch.Tensor,
    scale: torch.Tensor,
    stretch: torch.Tensor,
    shear: torch.Tensor,
    shift: torch.Tensor,
    mirror: float,
    mode: str = "bilinear",
) -> torch.Tensor:
    """Rotate, scale, stretch, shear, shift; the border becomes white.

    Args:
        x: pictures.
        angle: (n,), in radians.
        scale: (n,), above 1 for a smaller picture.
        stretch: (n,), of the width against the height.
        shear: (n,).
        shift: (2, n), in halves of the old picture's side.
        mirror: the share of pictures that are mirrored.
        mode: of interpolation.
    """
    flip = torch.where(uniform(len(x), 0, 1, x.device) < mirror, -1.0, 1.0)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    theta = torch.stack(
        [
            torch.stack([cos * stretch * flip, -sin + shear, shift[0]], 1),
            torch.stack([sin * flip, cos / stretch, shift[1]], 1),
        ],
        1,
    )
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x - 1, grid, mode=mode, align_corners=False) + 1


def random_affine(x: torch.Tensor) -> torch.Tensor:
    """Rotate by up to 20 degrees, scale, stretch, shear, shift, mirror a third; border white."""
    n, device = len(x), x.device
    return affine(
        x,
        angle=uniform(n, -math.pi / 9, math.pi / 9, device),
        scale=uniform(n, 0.85, 1.3, device),
        stretch=uniform(n, 0.88, 1.13, device),
        shear=uniform(n, -0.15, 0.15, device),
        shift=uniform(2 * n, -0.2, 0.2, device).unflatten(0, (2, n)),
        mirror=0.33,
    )


def random_warp(x: torch.Tensor, strength: float = 0.05) -> torch.Tensor:
    """A smooth random displacement: drawn pictures have slightly wrong outlines."""
    n = len(x)
    field = (
        torch.randn(n, 2, 5, 5, device=x.device)
        * strength
        * torch.rand(n, 1, 1, 1, device=x.device)
    )
    field = functional.interpolate(field, size=x.shape[-2:], mode="bicubic", align_corners=True)
    eye = torch.eye(2, 3, device=x.device).expand(n, 2, 3)
    grid = functional.affine_grid(eye, list(x.shape), align_corners=False) + field.permute(
        0, 2, 3, 1
    )
    return functional.grid_sample(x - 1, grid, align_corners=False) + 1


def random_colour(x: torch.Tensor) -> torch.Tensor:
    """Brightness, contrast, saturation, a small rotation of hue, and a tint of the white."""
    n, device = len(x), x.device

    def factor(low: float, high: float) -> torch.Tensor:
        return uniform(n, low, high, device)[:, None, None, None]

    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * factor(0.7, 1.3)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * factor(0.75, 1.2)
    mix = factor(0.0, 0.12)
    x = torch.where(factor(0, 1) < 0.5, x * (1 - mix) + x.roll(1, 1) * mix, x)
    tint = torch.empty(n, 3, 1, 1, device=device).uniform_(0.8, 1.05)
    return ((x + 1) * tint - 1 + factor(-0.1, 0.1)).clamp(-1, 1)


def random_blur_and_noise(x: torch.Tensor) -> torch.Tensor:
    """Mix with a blurred copy, add noise of a random strength, smooth noise as well."""
    n, device = len(x), x.device
    amount = uniform(n, -0.6, 1.0, device).clamp_min(0)[:, None, None, None]
    blurred = functional.avg_pool2d(functional.pad(x, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    x = x + amount * (blurred - x)
    strength = uniform(n, -0.05, 0.12, device).clamp_min(0)[:, None, None, None]
    coarse = functional.interpolate(
        torch.randn(n, 3, 16, 16, device=device), size=x.shape[-2:], mode="bilinear"
    )
    return (x + strength * (torch.randn_like(x) + 1.5 * coarse)).clamp(-1, 1)


def random_erase(x: torch.Tensor, probability: float = 0.3) -> torch.Tensor:
    """Replace one rectangle by white: no single part may decide."""
    n, _, height, width = x.shape
    device = x.device
    top, left = uniform(n, 0, height, device), uniform(n, 0, width, device)
    size = uniform(n, 6, 22, device)
    rows = torch.arange(height, device=device)[None]
    columns = torch.arange(width, device=device)[None]
    inside_rows = (rows >= top[:, None]) & (rows < (top + size)[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < (left + size)[:, None])
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    chosen = (uniform(n, 0, 1, device) < probability)[:, None, None, None]
    return torch.where(inside & chosen, torch.ones_like(x), x)


def augment(x: torch.Tensor) -> torch.Tensor:
    return random_erase(random_blur_and_noise(random_colour(random_affine(random_warp(x)))))


def vary_pose(x: torch.Tensor) -> torch.Tensor:
    """Rotate by up to 12 degrees, shrink, move as far as there is room, mirror half."""
    n, device = len(x), x.device
    scale = uniform(n, 0.98, 1.28, device)
    return affine(
        x,
        angle=uniform(n, -math.pi / 15, math.pi / 15, device),
        scale=scale,
        stretch=uniform(n, 0.95, 1.05, device),
        shear=torch.zeros(n, device=device),
        shift=uniform(2 * n, -1, 1, device).unflatten(0, (2, n)) * (scale - 0.92),
        mirror=0.5,
        mode="bicubic",
    ).clamp(-1, 1)


def vary_stroke(x: torch.Tensor, strength: float = 0.3) -> torch.Tensor:
    """Mix with the darkest or the lightest of each pixel's neighbours: thicker or thinner lines."""
    amount = uniform(len(x), -strength, strength, x.device)[:, None, None, None]
    lightest = functional.max_pool2d(x, 3, stride=1, padding=1)
    darkest = -functional.max_pool2d(-x, 3, stride=1, padding=1)
    neighbour = torch.where(amount > 0, darkest, lightest)
    return x + amount.abs() * (neighbour - x)


def vary_ink(x: torch.Tensor) -> torch.Tensor:
    """Turn the hue by up to 15 degrees, change saturation and brightness; white stays white."""
    n, device = len(x), x.device
    angle = uniform(n, -math.pi / 12, math.pi / 12, device)[:, None, None]
    grey = torch.full((3, 3), 1 / 3, device=device)
    eye = torch.eye(3, device=device)
    cross = (eye.roll(1, 0) - eye.roll(-1, 0)) / math.sqrt(3)
    rotation = grey + angle.cos() * (eye - grey) + angle.sin() * cross
    saturation = uniform(n, 0.85, 1.15, device)[:, None, None]
    matrix = uniform(n, 0.88, 1.1, device)[:, None, None] * torch.lerp(grey, rotation, saturation)
    ink = torch.einsum("nij,njhw->nihw", matrix, (1 - x) / 2)
    return 1 - 2 * ink.clamp(0, 1)


def vary(x: torch.Tensor) -> torch.Tensor:
    return vary_ink(vary_stroke(vary_pose(x)))
