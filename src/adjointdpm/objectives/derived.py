"""Objectives made of another one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..features import RoundingGradient, exceeds
from .objective import Objective, as_objective


class Transformed(Objective):
    """A metric of what becomes of pictures, such as after JPEG; it has the metric's direction.

    Args:
        metric: an objective, or a function as `as_objective` takes it.
        transform: from pictures (batch, 3, height, width) in [0, 1] to such pictures.

    >>> from functools import partial
    >>> from adjointdpm.features import quantize
    >>> bright = as_objective(lambda images: images.mean((1, 2, 3)), larger_is_better=True)
    >>> coarse = Transformed(bright, partial(quantize, levels=2))
    >>> coarse(torch.full((1, 3, 4, 4), 0.6))
    tensor([1.])
    """

    def __init__(
        self, metric: Callable[..., Tensor], transform: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.metric = as_objective(metric)
        self.larger_is_better = self.metric.larger_is_better
        self.transform = transform

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the metric, (batch,), of what pictures (batch, 3, height, width) become."""
        return self.metric(self.transform(images), generator)


class Thresholded(Objective):
    """Whether a metric is better than a threshold, 1 or 0: larger is better.

    Args:
        metric: an objective, or a function as `as_objective` takes it.
        threshold: what it is to be better than.
        gradient: ``straight_through``, ``smooth`` or ``exact``, as `exceeds` takes them.
        width: of the smooth form, in the unit of the metric; about how far it is from the threshold
            at the start is a good choice.
    """

    larger_is_better = True

    def __init__(
        self,
        metric: Callable[..., Tensor],
        threshold: float,
        gradient: RoundingGradient = "straight_through",
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self.metric = as_objective(metric)
        self.threshold = threshold
        self.gradient = gradient
        self.width = width

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return 1 or 0 (between them if smooth), (batch,), of pictures in [0, 1].

        Args:
            images: (batch, 3, height, width).
            generator: a CPU generator, for metrics that draw.
        """
        sign = 1 if self.metric.larger_is_better else -1
        values = sign * self.metric(images, generator)
        return exceeds(values, sign * self.threshold, self.gradient, self.width)
