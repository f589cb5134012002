"""Fixed points by Anderson acceleration, for each sample of a batch on its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MEMORY = 5
"""How many earlier iterates are combined."""


@dataclass(frozen=True)
class FixedPoint:
    """Where an iteration came to.

    Args:
        x: (batch, ...) the iterate of each sample with the smallest residual.
        residual: (batch,) how far ``function(x)`` is from it, in the given unit.
        iterations: how often the function was evaluated.
    """

    x: Tensor
    residual: Tensor
    iterations: int


def fixed_point(
    function: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    unit: Tensor,
    tolerance: float,
    max_iterations: int,
) -> FixedPoint:
    """Look for ``x = function(x)``.

    Each iterate is the combination of the last few whose residual would be smallest if the function
    were linear (Anderson, 1965; for inversion arXiv 2309.04907).

    Args:
        function: of (batch, ...), sample by sample.
        start: where to begin.
        unit: (batch,) the length that a residual is measured in.
        tolerance: the residual of every sample at which to stop; looking at it takes one
            synchronisation an iteration.
        max_iterations: when to stop in any case.
    """
    best, least = start, torch.full_like(unit, torch.inf)
    x, shape = start, start.shape
    points: list[Tensor] = []
    residuals: list[Tensor] = []
    iterations = 0
    while iterations < max_iterations:
        value = function(x)
        iterations += 1
        residual = (value - x).flatten(1).double()
        size = residual.norm(dim=1) / unit
        better = size < least
        best = torch.where(better.reshape(-1, *[1] * (x.ndim - 1)), x, best)
        least = torch.where(better, size, least)
        if bool((least <= tolerance).all()):
            break
        points = [*points[-MEMORY:], value.flatten(1).double()]
        residuals = [*residuals[-MEMORY:], residual]
        x = _combine(points, residuals).reshape(shape).to(start.dtype)
    return FixedPoint(best, least, iterations)


def _combine(points: list[Tensor], residuals: list[Tensor]) -> Tensor:
    """Return the combination of points, with weights that sum to one, of least residual."""
    newest, missing = points[-1], residuals[-1]
    if len(points) == 1:
        return newest
    steps = torch.stack([a - b for a, b in zip(points[1:], points, strict=False)], 1)
    changes = torch.stack([a - b for a, b in zip(residuals[1:], residuals, strict=False)], 1)
    gram = changes @ changes.mT
    # Of samples that have arrived, nothing but rounding is left to be combined.
    ridge = 1e-10 * gram.diagonal(dim1=1, dim2=2).sum(1) + torch.finfo(gram.dtype).tiny
    gram = gram + ridge[:, None, None] * torch.eye(len(points) - 1).to(gram)
    weights = torch.linalg.solve(gram, changes @ missing[:, :, None])
    return newest - (weights * steps).sum(1)
