"""Augmentation for the classifiers: they learn from few pictures and must read drawn ones.

All functions take and return (n, 3, h, w) in [-1, 1] on any device, white being 1.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def uniform(n: int, low: float, high: float, device: torch.device) -> torch.Tensor:
    return torch.empty(n, device=device).uniform_(low, high)


def random_affine(x: torch.Tensor) -> torch.Tensor:
    """Rotate by up to 20 degrees, scale, stretch, shear, shift, mirror a third; border white."""
    n, device = len(x), x.device
    angle = uniform(n, -math.pi / 9, math.pi / 9, device)
    scale = uniform(n, 0.85, 1.3, device)
    stretch = uniform(n, 0.88, 1.13, device)
    shear = uniform(n, -0.15, 0.15, device)
    mirror = torch.where(uniform(n, 0, 1, device) < 0.33, -1.0, 1.0)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    theta = torch.stack(
        [
            torch.stack([cos * stretch * mirror, -sin + shear, uniform(n, -0.2, 0.2, device)], 1),
            torch.stack([sin * mirror, cos / stretch, uniform(n, -0.2, 0.2, device)], 1),
        ],
        1,
    )
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x - 1, grid, align_corners=False) + 1


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
