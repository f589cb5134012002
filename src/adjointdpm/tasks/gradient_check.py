"""Is the gradient right? A directional derivative, measured and computed, in float64."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..sampler import Sampler


@dataclass(frozen=True)
class GradientCheck:
    """The derivative of an objective along one random direction of the noise.

    Args:
        computed: the gradient's, by the sampler's own method.
        measured: the central difference of two whole sampling runs.
    """

    computed: float
    measured: float

    @property
    def relative_error(self) -> float:
        """How far the two are apart."""
        return abs(self.computed - self.measured) / abs(self.measured)


def check_gradient(
    sampler: Sampler,
    objective: nn.Sequential,
    noise: Tensor,
    cond: dict[str, Any],
    *,
    step: float = 1e-4,
    seed: int = 0,
) -> GradientCheck:
    """Compare the gradient with respect to the noise with a central difference.

    Everything runs on copies in float64, where a difference of two runs still has eight digits.

    Args:
        sampler: the sampler, with the gradient method to be checked.
        objective: from samples to one number each, as modules so that they can be copied.
        noise: (batch, ...) where to look.
        cond: conditioning, a nest of tensors.
        step: half the length of the difference.
        seed: of the direction.
    """
    sampler, objective = copy.deepcopy(sampler).double(), copy.deepcopy(objective).double()
    cond = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().double(), cond)
    noise = noise.detach().double()
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(noise.shape, generator=generator, dtype=torch.float64).to(noise)
    direction /= direction.norm()

    def value(at: Tensor) -> Tensor:
        return objective(sampler(at, **cond)).sum()

    leaf = noise.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    with torch.no_grad():
        measured = (value(noise + step * direction) - value(noise - step * direction)) / (2 * step)
    return GradientCheck(float((gradient * direction).sum()), float(measured))
