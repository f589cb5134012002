"""Several objectives at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .objective import Objective, as_objective


class WeightedSum(Objective):
    """Objectives added up, each in the direction that makes it better: smaller is better.

    A sum in which one term is to grow and another to fall has no direction of its own, so what is
    added is each term's `Objective.loss`. A weight says how much a term counts; one below 0 drives
    the pictures away from what the term is good at.

    Args:
        terms: weight and objective by name.

    >>> from adjointdpm.objectives import PictureDistance
    >>> bright = as_objective(lambda images: images.mean((1, 2, 3)), larger_is_better=True)
    >>> near = PictureDistance(torch.zeros(3, 4, 4))
    >>> both = WeightedSum({"bright": (2.0, bright), "near": (0.5, near)})
    >>> both.terms(torch.ones(1, 3, 4, 4))
    {'bright': tensor([1.]), 'near': tensor([1.])}
    >>> both(torch.ones(1, 3, 4, 4))
    tensor([-1.5000])
    """

    larger_is_better = False

    def __init__(self, terms: Mapping[str, tuple[float, Callable[..., Tensor]]]) -> None:
        super().__init__()
        if not terms:
            raise ValueError(
                "a weighted sum needs at least one term, such as {'style': (1.0, style)}"
            )
        self.weights = {name: float(weight) for name, (weight, _) in terms.items()}
        for name, weight in self.weights.items():
            if not math.isfinite(weight):
                raise ValueError(
                    f"the weight of the term {name!r} is {weight}: give a finite number"
                )
        self.objectives = nn.ModuleDict({n: as_objective(f) for n, (_, f) in terms.items()})

    def terms(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Return what each objective says, unweighted and in its own direction, (batch,) each.

        Args:
            images: (batch, 3, height, width) in [0, 1].
            generator: a CPU generator, for objectives that draw.
        """
        return {name: term(images, generator) for name, term in self.objectives.items()}

    def combine(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the sum, (batch,), of what `terms` returned.

        Both together are `forward`, for those who report the terms as well.
        """
        signs = {n: -1 if o.larger_is_better else 1 for n, o in self.objectives.items()}
        parts = [signs[name] * self.weights[name] * terms[name] for name in self.objectives]
        return torch.stack(parts).sum(0)

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the sum, (batch,), of pictures (batch, 3, height, width) in [0, 1]."""
        return self.combine(self.terms(images, generator))
