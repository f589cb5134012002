"""How an attack steps: fixed steps, Adam, and the adaptive rule of AutoPGD.

A rule keeps what it remembers in tensors with one row an item, and no row depends on another: items
join and leave a batch without a trace in the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .choices import RuleName
from .threat import Threat

Memory = dict[str, Tensor]


class Situation(NamedTuple):
    """What a rule is told of its items before a step.

    Args:
        points: (batch, ...) where they are.
        starts: (batch, ...) where they began.
        gradients: (batch, ...) of what is climbed, at the points.
        values: (batch,) what is climbed.
        steps: (batch,) how many steps were made.
    """

    points: Tensor
    starts: Tensor
    gradients: Tensor
    values: Tensor
    steps: Tensor


class StepRule(ABC):
    """How points move up along gradients."""

    @abstractmethod
    def begin(self, points: Tensor) -> Memory:
        """Return what is remembered of items before their first step.

        Args:
            points: (batch, ...) where they begin.
        """

    @abstractmethod
    def step(self, at: Situation, memory: Memory, threat: Threat) -> tuple[Tensor, Memory]:
        """Return the next points, inside the threat's region, and the new memory."""


@dataclass(frozen=True)
class FixedStep(StepRule):
    """Steps of one length: projected gradient ascent (PGD, arXiv 1706.06083).

    Args:
        size: length of a step in the threat's norm; in a box, for ``normalized``, the root mean
            square of its entries.
        direction: the sign of the gradient, or the gradient itself, scaled to that length.
    """

    size: float
    direction: Literal["sign", "normalized"] = "sign"

    def begin(self, points: Tensor) -> Memory:
        """Return nothing: a step depends on no earlier one."""
        return {}

    def step(self, at: Situation, memory: Memory, threat: Threat) -> tuple[Tensor, Memory]:
        """Step along the direction, and project."""
        if self.direction == "sign":
            moves = at.gradients.sign()
        else:
            squares = at.gradients.square().flatten(1).mean(1)
            moves = at.gradients * _like(squares.clamp(min=1e-60).rsqrt(), at.points)
        return _project(at, self.size * moves, threat), memory


@dataclass(frozen=True)
class Adam(StepRule):
    """Steps of Adam (arXiv 1412.6980), projected.

    Args:
        size: the learning rate: about the length of a step in the threat's norm.
        beta1: decay of the mean of gradients.
        beta2: decay of the mean of their squares.
    """

    size: float
    beta1: float = 0.9
    beta2: float = 0.999

    def begin(self, points: Tensor) -> Memory:
        """Return both means at zero."""
        return {"mean": torch.zeros_like(points), "square": torch.zeros_like(points)}

    def step(self, at: Situation, memory: Memory, threat: Threat) -> tuple[Tensor, Memory]:
        """Step by the corrected means, and project."""
        mean = memory["mean"].lerp(at.gradients, 1 - self.beta1)
        square = memory["square"].lerp(at.gradients.square(), 1 - self.beta2)
        made = _like(at.steps + 1, at.points)
        corrected = (square / (1 - self.beta2**made)).sqrt()
        moves = mean / (1 - self.beta1**made) / (corrected + 1e-12)
        return _project(at, self.size * moves, threat), {"mean": mean, "square": square}


@dataclass(frozen=True)
class AutoPgd(StepRule):
    """The adaptive rule of AutoPGD: momentum, and steps halved where they do not pay.

    At checkpoints, which come closer together, an item's step is halved and the item goes back to
    its best point if too few of the steps since the last one went up, or if neither step nor best
    value changed since then (Croce and Hein 2020, arXiv 2003.01690, algorithm 1). Checkpoints are
    those of the authors' code.

    Args:
        max_steps: how many steps there will be.
        size: length of the first steps in the threat's norm; twice the radius in the paper.
        momentum: weight of the new step beside that of the last one.
        rho: share of steps that are to go up.
    """

    max_steps: int
    size: float
    momentum: float = 0.75
    rho: float = 0.75

    def begin(self, points: Tensor) -> Memory:
        """Return the memory of an item that has made no step."""
        rows = points.new_zeros(len(points))
        return {
            "previous": points.clone(),
            "size": rows + self.size,
            "last_value": rows - torch.inf,
            "best_value": rows - torch.inf,
            "best_points": points.clone(),
            "best_gradients": torch.zeros_like(points),
            "value_at_check": rows - torch.inf,
            "window": rows.long() + max(int(0.22 * self.max_steps), 1),
            "since_check": rows.long(),
            "risen": rows.long(),
            "halved": torch.ones_like(rows, dtype=torch.bool),
        }

    def step(self, at: Situation, memory: Memory, threat: Threat) -> tuple[Tensor, Memory]:
        """Note what the last step brought, check where it is time, and step."""
        now = _noted(at, memory)
        first = at.steps == 0
        now["value_at_check"] = torch.where(first, at.values, now["value_at_check"])
        points, gradients, now = self._checked(at, now)
        size, momentum = _like(now["size"], points), _like(first, points)
        ahead = threat.project(points + size * threat.steepest(gradients), at.starts)
        weight = torch.where(momentum, 1.0, self.momentum).to(points)
        moved = points + weight * (ahead - points) + (1 - weight) * (points - now["previous"])
        now["previous"] = points
        return threat.project(moved, at.starts), now

    def _checked(self, at: Situation, now: Memory) -> tuple[Tensor, Tensor, Memory]:
        """Halve steps and go back to the best point, where it is time and does not pay."""
        due = now["since_check"] == now["window"]
        wavers = now["risen"] <= self.rho * now["window"]
        stands = ~now["halved"] & (now["value_at_check"] >= now["best_value"])
        halve = due & (wavers | stands)
        fewer = max(int(0.03 * self.max_steps), 1)
        least = max(int(0.06 * self.max_steps), 1)
        now |= {
            "size": torch.where(halve, now["size"] / 2, now["size"]),
            "halved": torch.where(due, halve, now["halved"]),
            "value_at_check": torch.where(due, now["best_value"], now["value_at_check"]),
            "window": torch.where(due, (now["window"] - fewer).clamp(min=least), now["window"]),
            "since_check": now["since_check"] * ~due,
            "risen": now["risen"] * ~due,
        }
        back = _like(halve, at.points)
        points = torch.where(back, now["best_points"], at.points)
        return points, torch.where(back, now["best_gradients"], at.gradients), now


def _noted(at: Situation, memory: Memory) -> Memory:
    """Return the memory with what the last step brought."""
    made = (at.steps > 0).long()
    better = at.values > memory["best_value"]
    wide = _like(better, at.points)
    return {
        **memory,
        "last_value": at.values,
        "since_check": memory["since_check"] + made,
        "risen": memory["risen"] + made * (at.values > memory["last_value"]),
        "best_value": torch.where(better, at.values, memory["best_value"]),
        "best_points": torch.where(wide, at.points, memory["best_points"]),
        "best_gradients": torch.where(wide, at.gradients, memory["best_gradients"]),
    }


def _project(at: Situation, moves: Tensor, threat: Threat) -> Tensor:
    """Return where moves lead whose entries have the length of a step, in the threat's norm."""
    entries = 1.0 if threat.norm == "linf" else at.points[0].numel() ** -0.5
    return threat.project(at.points + entries * moves, at.starts)


def _like(rows: Tensor, points: Tensor) -> Tensor:
    """Return one number an item in the shape (batch, 1, ...) of its points."""
    return rows.reshape(-1, *[1] * (points.ndim - 1))


def build_rule(
    name: RuleName, threat: Threat, max_steps: int, step_size: float | None = None
) -> StepRule:
    """Return a rule by its name.

    Args:
        name: ``apgd``, ``sign``, ``normalized`` or ``adam``.
        threat: the region, whose radius says how long steps are by default: twice the radius at
            first for ``apgd``, else 2.5 radii over all steps.
        max_steps: how many steps there will be.
        step_size: in place of that.

    Raises:
        ValueError: an unknown rule, a step size that is not positive, or none and no radius.
    """
    if step_size is None:
        if threat.radius is None:
            raise ValueError("without a radius nothing says how long a step is: set step_size")
        step_size = 2 * threat.radius if name == "apgd" else 2.5 * threat.radius / max_steps
    if not step_size > 0:
        raise ValueError(f"step_size must be positive, not {step_size}")
    match name:
        case "apgd":
            return AutoPgd(max_steps, step_size)
        case "sign" | "normalized":
            return FixedStep(step_size, name)
        case "adam":
            return Adam(step_size)
    raise ValueError(f"rule must be apgd, sign, normalized or adam, not {name!r}")
