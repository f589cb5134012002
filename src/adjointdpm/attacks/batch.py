"""Items under attack, one update at a time: new ones join, those that ended leave.

An item's path does not depend on its neighbours: all that is kept of it is one row of each tensor,
and its random numbers come from its own seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .attack import Attack
from .found import Ended, Evaluate, Evaluation, Iterate, Status
from .rules import Memory, Situation


@dataclass
class _Record:
    """What is known of an item beside its row in the tensors."""

    item: Any
    seed: int
    start: Iterate | None = None
    last: Iterate | None = None
    best: Iterate | None = None
    best_value: float = -float("inf")
    evaluations: int = 0
    steps: int = 0
    restarts: int = 0
    zero_gradients: int = 0
    fooled: bool = False

    def ended(self, status: Status) -> Ended:
        assert self.start is not None
        assert self.last is not None
        assert self.best is not None
        iterates = self.start, self.last, self.best
        return Ended(self.item, status, *iterates, self.evaluations, self.zero_gradients)


class _Told(NamedTuple):
    """What an evaluation says of one item."""

    value: float
    right: float
    fooled: float
    inside: float
    finite: float
    zero: float


class AttackBatch:
    """The items that are under attack at the moment.

    Args:
        attack: the attack.
    """

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self._records: list[_Record] = []
        self._rows: dict[str, Tensor] = {}
        self._memory: Memory = {}

    def __len__(self) -> int:
        return len(self._records)

    @property
    def items(self) -> list[Any]:
        """The items, in the order of the points."""
        return [record.item for record in self._records]

    def add(self, item: Any, start: Tensor, label: int, target: int | None, seed: int) -> None:
        """Add an item; it takes part from the next update on.

        Args:
            item: whatever tells it from others; evaluation is given it.
            start: (...) where it begins.
            label: its true class.
            target: the class to be reached, if the attack is targeted.
            seed: of its restarts.

        Raises:
            ValueError: the attack is targeted and there is no target, or it is not and there is
                one; or the target is the true class.
        """
        if (target is not None) != self.attack.targeted:
            wanted = "a target" if self.attack.targeted else "no target"
            raise ValueError(f"the attack needs {wanted}, and the item {item!r:.80} has {target}")
        if target == label:
            raise ValueError(f"the item {item!r:.80} has its own class for a target: {label}")
        point = start.detach()[None]
        row = {
            "start": point,
            "point": point,
            "inside": point,
            "label": torch.tensor([label], device=start.device),
            "goal": torch.tensor([label if target is None else target], device=start.device),
            "steps": torch.zeros(1, dtype=torch.long, device=start.device),
        }
        self._rows = _join(self._rows, row)
        self._memory = _join(self._memory, self.attack.steps.begin(point))
        self._records.append(_Record(item, seed))

    def advance(self, evaluate: Evaluate) -> list[Ended]:
        """Look at all points, end what has ended, and move the others one step.

        Args:
            evaluate: from points (batch, ...) and the items that they belong to, to what the model
                says.

        Returns:
            The items that ended, which have left.

        Raises:
            ValueError: the attack limits a distance that the evaluation does not give.
        """
        if not self._records:
            return []
        points = self._rows["point"].clone().requires_grad_()
        with torch.enable_grad():
            seen = evaluate(points, self.items)
            excess = self._excess(seen)
            values = self.attack.value(seen.logits, self._rows["goal"], excess)
            (gradients,) = torch.autograd.grad(values.sum(), points)
        with torch.no_grad():
            inside = torch.ones_like(values) if excess is None else excess <= 0
            told = self._tell(seen.logits, values, inside, gradients)
            statuses = [
                self._note(i, record, seen, told[i]) for i, record in enumerate(self._records)
            ]
            self._step(values, gradients, inside.bool())
            self._restart()
            return self._leave(statuses)

    def _excess(self, seen: Evaluation) -> Tensor | None:
        limit = self.attack.picture_limit
        if limit is None:
            return None
        if seen.distance is None:
            raise ValueError("the attack limits a distance of pictures, and nothing measures it")
        return (seen.distance / limit - 1).clamp(min=0)

    def _tell(
        self, logits: Tensor, values: Tensor, inside: Tensor, gradients: Tensor
    ) -> list[_Told]:
        """Return what is decided by, in the one synchronisation of an update."""
        flat = gradients.flatten(1)
        told = [
            values,
            logits.argmax(1) == self._rows["label"],
            self.attack.fooled(logits, self._rows["goal"]),
            inside,
            flat.isfinite().all(1) & values.isfinite(),
            (flat == 0).all(1),
        ]
        table = torch.stack([one.double() for one in told], dim=1).tolist()
        return [_Told(*row) for row in table]

    def _note(self, i: int, record: _Record, seen: Evaluation, told: _Told) -> Status | None:
        """Note what was seen of an item; return how it ended, if it did."""
        first, attack = record.evaluations == 0, self.attack
        iterate = Iterate(
            point=self._rows["point"][i].clone(),
            picture=seen.pictures[i].detach().clone(),
            logits=seen.logits[i].detach().clone(),
            evaluation=record.evaluations,
            inside=bool(told.inside),
        )
        record.evaluations += 1
        record.zero_gradients += int(told.zero)
        record.last = iterate
        if first:
            record.start = record.best = iterate
        if not told.finite:
            return "not finite"
        if first and not told.right:
            return "wrong at the start"
        fooled = bool(told.fooled and told.inside)
        # What fools goes before what does not: other losses than the margin may order them else.
        if told.inside and (fooled, told.value) > (record.fooled, record.best_value):
            record.best, record.best_value = iterate, told.value
        record.fooled |= fooled
        if fooled and attack.stop_at_success:
            return "fooled"
        if record.steps < attack.max_steps:
            record.steps += 1
            return None
        if record.fooled or record.restarts >= attack.num_restarts:
            return "fooled" if record.fooled else "held"
        record.steps, record.restarts = -1, record.restarts + 1
        return None

    def _step(self, values: Tensor, gradients: Tensor, inside: Tensor) -> None:
        """Move all rows one step; those of items that end are dropped afterwards."""
        rows = self._rows
        at = Situation(rows["point"], rows["start"], gradients, values, rows["steps"])
        points, self._memory = self.attack.steps.step(at, self._memory, self.attack.threat)
        if self.attack.picture_limit is not None:
            wide = inside.reshape(-1, *[1] * (points.ndim - 1))
            rows["inside"] = torch.where(wide, rows["point"], rows["inside"])
            halfway = (rows["point"] + rows["inside"]) / 2
            points = torch.where(wide, points, self.attack.threat.project(halfway, rows["start"]))
        rows["point"], rows["steps"] = points, rows["steps"] + 1

    def _restart(self) -> None:
        """Put items that begin again to a random point, with nothing remembered."""
        for i, record in enumerate(self._records):
            if record.steps >= 0:
                continue
            record.steps = 0
            generator = torch.Generator().manual_seed(record.seed * 1_000_003 + record.restarts)
            start = self._rows["start"][i]
            point = self.attack.threat.draw(start, generator)
            fresh = self.attack.steps.begin(point[None])
            # The inside point is one where the limit held: the start, until another is found.
            for part, row in (
                (self._rows, {"point": point, "inside": start, "steps": torch.tensor(0)}),
                (self._memory, {name: tensor[0] for name, tensor in fresh.items()}),
            ):
                for name, value in row.items():
                    part[name] = part[name].clone()
                    part[name][i] = value

    def _leave(self, statuses: list[Status | None]) -> list[Ended]:
        """Drop the items that ended, and return them."""
        pairs = list(zip(self._records, statuses, strict=True))
        stay = [i for i, status in enumerate(statuses) if status is None]
        if len(stay) < len(pairs):
            index = torch.tensor(stay, dtype=torch.long, device=self._rows["point"].device)
            self._rows = {name: tensor[index] for name, tensor in self._rows.items()}
            self._memory = {name: tensor[index] for name, tensor in self._memory.items()}
            self._records = [self._records[i] for i in stay]
        return [record.ended(status) for record, status in pairs if status is not None]


def _join(rows: dict[str, Tensor], more: dict[str, Tensor]) -> dict[str, Tensor]:
    if not rows:
        return dict(more)
    return {name: torch.cat([tensor, more[name]]) for name, tensor in rows.items()}
