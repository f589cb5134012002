"""What an attack is told of points, and what it tells of items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Status = Literal["fooled", "held", "wrong at the start", "not finite"]


@dataclass(frozen=True)
class Evaluation:
    """What a model says of points.

    Args:
        logits: (batch, classes), differentiable in the points.
        pictures: (batch, ...) what it looked at, kept for the report; in any dtype.
        distance: (batch,) of the pictures from those of the starts, differentiable; needed where
            the attack limits it.
    """

    logits: Tensor
    pictures: Tensor
    distance: Tensor | None = None


@dataclass(frozen=True)
class Iterate:
    """A point that was looked at.

    Args:
        point: (...) where.
        picture: what the model looked at there.
        logits: (classes,) what it said.
        evaluation: how many points of the item were looked at before it.
        inside: whether the picture is within the attack's limit.
    """

    point: Tensor
    picture: Tensor
    logits: Tensor
    evaluation: int
    inside: bool


@dataclass(frozen=True)
class Ended:
    """What became of an item.

    Args:
        item: as it was added.
        status: ``fooled``, ``held`` to the last step, ``wrong at the start``, where there was
            nothing to attack, or ``not finite`` where the model gave no gradient to go on with.
        start: the first point.
        last: the last point that was looked at.
        best: the point inside all limits where what is climbed was largest.
        evaluations: how many points were looked at.
        zero_gradients: at how many of them the gradient was zero, and so led nowhere.
    """

    item: Any
    status: Status
    start: Iterate
    last: Iterate
    best: Iterate
    evaluations: int
    zero_gradients: int


Evaluate = Callable[[Tensor, Sequence[Any]], Evaluation]
