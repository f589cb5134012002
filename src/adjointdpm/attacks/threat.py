"""Where a point may go: near its start in a norm, and at the start's distance from the origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from .choices import NormName

BISECTIONS = 60
"""Halvings that find the scale at which a clamped point has the length asked for."""


@dataclass(frozen=True)
class Threat:
    """A trust region around a start.

    The start is a constant: it is never the tensor that is moved.

    Args:
        norm: ``linf`` for a box, ``l2`` for a ball.
        radius: how far a point may be from its start in that norm; None for any distance.
        shell: keep the length of the start. Nearly all of a standard normal distribution in d
            dimensions lies near the length sqrt(d), and there a diffusion model has seen noise.

    Raises:
        ValueError: an unknown norm, or a radius that is not positive.
    """

    norm: NormName = "linf"
    radius: float | None = 0.3
    shell: bool = False

    def __post_init__(self) -> None:
        if self.norm not in get_args(NormName):
            raise ValueError(f"norm must be linf or l2, not {self.norm!r}")
        if self.radius is not None and not self.radius > 0:
            raise ValueError(f"radius must be positive, not {self.radius}")

    def project(self, points: Tensor, starts: Tensor) -> Tensor:
        """Return the nearest points inside, (batch, ...).

        Args:
            points: (batch, ...) where they would go.
            starts: (batch, ...) where they began.

        >>> Threat("linf", 0.5).project(torch.tensor([[2.0, 0.1]]), torch.zeros(1, 2))
        tensor([[0.5000, 0.1000]])
        >>> Threat("l2", 5.0).project(torch.tensor([[6.0, 8.0]]), torch.zeros(1, 2))
        tensor([[3., 4.]])
        """
        if self.shell:
            onto = _onto_box_and_shell if self.norm == "linf" else _onto_cap
            if self.radius is None:
                return points * (_length(starts) / _length(points))
            return onto(points, starts, self.radius)
        if self.radius is None:
            return points
        if self.norm == "linf":
            return points.clamp(starts - self.radius, starts + self.radius)
        moved = points - starts
        return starts + moved * (self.radius / _length(moved)).clamp(max=1.0)

    def distance(self, points: Tensor, starts: Tensor) -> Tensor:
        """Return how far points are from their starts in the norm, (batch,)."""
        moved = (points - starts).flatten(1)
        return moved.abs().amax(1) if self.norm == "linf" else moved.norm(dim=1)

    def steepest(self, gradients: Tensor) -> Tensor:
        """Return the direction of length 1 in the norm that raises a function most, (batch, ...).

        A gradient of zero has none, and gives zero.
        """
        return gradients.sign() if self.norm == "linf" else gradients / _length(gradients)

    def draw(self, start: Tensor, generator: torch.Generator) -> Tensor:
        """Return a random point inside, for one start: uniform in the box, or in the ball.

        Args:
            start: (...) one start.
            generator: a CPU generator.

        Raises:
            ValueError: the region has no radius.
        """
        if self.radius is None:
            raise ValueError("a restart is drawn inside the radius, and there is none: set it")
        if self.norm == "linf":
            drawn = torch.rand(start.shape, generator=generator, dtype=torch.float64) * 2 - 1
        else:
            drawn = torch.randn(start.shape, generator=generator, dtype=torch.float64)
            share = torch.rand((), generator=generator, dtype=torch.float64)
            drawn = drawn / drawn.norm() * share ** (1 / start.numel())
        point = start + (self.radius * drawn).to(start)
        return self.project(point[None], start[None])[0]


def _length(points: Tensor) -> Tensor:
    """Return the lengths of points, (batch, 1, ...), never quite zero."""
    dims = tuple(range(1, points.ndim))
    return points.square().sum(dims, keepdim=True).sqrt().clamp(min=1e-30)


def _onto_cap(points: Tensor, starts: Tensor, radius: float) -> Tensor:
    """Return the nearest points of the sphere through the starts that are within the radius."""
    length = _length(starts)
    on_sphere = points * (length / _length(points))
    angle = 2 * torch.asin((radius / (2 * length)).clamp(max=1.0))
    along = starts / length
    dims = tuple(range(1, points.ndim))
    sideways = on_sphere - along * (on_sphere * along).sum(dims, keepdim=True)
    edge = length * (angle.cos() * along + angle.sin() * sideways / _length(sideways))
    return torch.where(_length(on_sphere - starts) <= radius, on_sphere, edge)


def _onto_box_and_shell(points: Tensor, starts: Tensor, radius: float) -> Tensor:
    """Return the nearest points of the box that have the starts' lengths.

    By Lagrange's condition such a point is the clamp of a multiple of the given one, and the length
    of that clamp grows with the multiple, so it is found by halving. Where no multiple is long
    enough, the start itself is returned.
    """
    low, high = starts - radius, starts + radius
    length, dims = _length(starts), tuple(range(1, starts.ndim))
    least = torch.zeros_like(length)
    farthest = starts.abs().amax(dims, keepdim=True) + radius
    most = farthest / points.abs().clamp(min=1e-6).amin(dims, keepdim=True)
    for _ in range(BISECTIONS):
        middle = (least + most) / 2
        short = _length((middle * points).clamp(low, high)) < length
        least, most = torch.where(short, middle, least), torch.where(short, most, middle)
    found = (most * points).clamp(low, high)
    missed = (_length(found) - length).abs() > 1e-4 * length
    return torch.where(missed, starts, found)
