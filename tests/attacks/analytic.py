"""A classifier of points with logits in closed form, and what it says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adjointdpm.attacks import Ended, Evaluation

CENTRES = 0.6 * torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(3)).double()
"""One a class: a logit is the negative distance from it, bent."""


def logits_of(points: Tensor) -> Tensor:
    moved = points[:, None] - CENTRES.to(points)
    return -(moved.square().sum((2, 3)) + 0.3 * (3 * moved).sin().sum((2, 3)))


def evaluate(points: Tensor, items: Sequence[Any]) -> Evaluation:
    return Evaluation(logits_of(points), points.detach())


def drive(batch: Any, queue: list[Any], capacity: int, look: Any = evaluate) -> dict[Any, Ended]:
    """Run items to their end, filling the places that become free; return them by item."""
    ended, waiting = {}, list(queue)
    while waiting or len(batch):
        while waiting and len(batch) < capacity:
            batch.add(*waiting.pop(0))
        for one in batch.advance(look):
            ended[one.item] = one
    return ended
