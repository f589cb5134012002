"""What an objective is: one number a picture, and whether a larger one is better."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Objective(nn.Module, ABC):
    """A differentiable metric of pictures that says in which direction it is better.

    `forward` gives the metric as the field reports it. `loss` turns it so that smaller is better:
    that is what a job minimises, whichever objective it is given.

    Subclasses set ``larger_is_better``. Those that draw random numbers draw them from ``generator``
    and pass it to the objectives within; all others leave it alone.
    """

    larger_is_better: bool

    @abstractmethod
    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return one number a picture.

        Args:
            images: (batch, 3, height, width) in [0, 1].
            generator: a CPU generator, for objectives that draw.

        Returns:
            (batch,) numbers.
        """

    def loss(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return what is to be minimised, (batch,): the metric, negated if larger is better.

        Raises:
            ValueError: a gradient is recorded, and the metric has none.
        """
        values = self(images, generator)
        if images.requires_grad and torch.is_grad_enabled() and not values.requires_grad:
            raise ValueError(
                "the objective has no gradient: what it returns does not depend on the pictures, "
                "or goes through detach, torch.no_grad, .item(), numpy, a comparison or a rounding"
            )
        return -values if self.larger_is_better else values


class FunctionObjective(Objective):
    """Any function of pictures as an objective; see `as_objective`.

    Args:
        function: from pictures (batch, 3, height, width) in [0, 1] to (batch,) numbers. If it has
            an argument ``generator`` it gets the generator.
        larger_is_better: the direction.
    """

    def __init__(self, function: Callable[..., Tensor], larger_is_better: bool) -> None:
        super().__init__()
        self.function = function
        self.larger_is_better = larger_is_better
        self._draws = "generator" in _arguments(getattr(function, "forward", function))

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return what the function returns, checked to be one number a picture.

        Raises:
            TypeError: it is no tensor.
            ValueError: it is not one number a picture, or has no fractions.
        """
        options = {"generator": generator} if self._draws else {}
        values = self.function(images.clone(), **options)  # it may write into its own
        name = getattr(self.function, "__name__", type(self.function).__name__)
        if not isinstance(values, Tensor):
            raise TypeError(f"the objective {name} returned a {type(values).__name__}, no tensor")
        if not values.is_floating_point():
            raise ValueError(
                f"the objective {name} returned {values.dtype}: there is no gradient of it. A "
                "comparison or a count needs a smooth form"
            )
        if values.shape != (len(images),):
            raise ValueError(
                f"the objective {name} returned the shape {tuple(values.shape)} for {len(images)} "
                f"pictures; return one number a picture, ({len(images)},), such as "
                "values.flatten(1).mean(1)"
            )
        return values


def _arguments(function: Callable[..., Tensor]) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except ValueError:  # a function that is built in and tells nothing
        return set()


def as_objective(
    function: Callable[..., Tensor], larger_is_better: bool | None = None
) -> Objective:
    """Return a function of pictures as an objective; an objective is returned as it is.

    Args:
        function: from pictures (batch, 3, height, width) in [0, 1] to (batch,) numbers.
        larger_is_better: the direction; by default what the function's attribute of that name says.

    Raises:
        ValueError: the direction is not said, or an objective says another.

    >>> brightness = as_objective(lambda images: images.mean((1, 2, 3)), larger_is_better=True)
    >>> brightness.loss(torch.ones(2, 3, 4, 4))
    tensor([-1., -1.])
    """
    said = getattr(function, "larger_is_better", None)
    name = getattr(function, "__name__", type(function).__name__)
    if said is None and larger_is_better is None:
        raise ValueError(
            f"nothing says whether a larger {name} is better, so it could be optimised the wrong "
            f"way: write `{name}.larger_is_better = True` (or False) below its definition, or pass "
            "larger_is_better"
        )
    if None not in (said, larger_is_better) and said != larger_is_better:
        raise ValueError(f"{name}.larger_is_better is {said}, but {larger_is_better} was asked for")
    if isinstance(function, Objective):
        return function
    return FunctionObjective(function, bool(said if larger_is_better is None else larger_is_better))
