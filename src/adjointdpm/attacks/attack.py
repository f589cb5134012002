"""What an attack is: a region, a criterion, what is climbed, by which steps, and for how long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from torch import Tensor

from .choices import LossName
from .losses import LOSSES, margin
from .rules import StepRule, build_rule
from .threat import Threat


@dataclass(frozen=True)
class Attack:
    """An attack, as numbers: threat, criterion, loss, steps.

    Args:
        threat: where points may go.
        rule: how they step; `build_rule` makes one. By default AutoPGD for the threat.
        loss: what is climbed.
        targeted: whether a target is to be answered, or any class but the true one.
        max_steps: steps from each start; a run of them looks at one point more.
        num_restarts: how often an item that is not fooled begins again from a random point.
        stop_at_success: whether an item ends where it is first fooled, or goes on for the
            strongest.
        picture_limit: the largest distance of a picture from the start's; None for any. Points
            beyond it count for nothing: what is climbed is lowered there, and the next point lies
            halfway back to the last one inside.
        penalty: by how much it is lowered for each multiple of the limit beyond it.

    Raises:
        ValueError: a number out of range, an unknown loss, or restarts without a radius.
    """

    threat: Threat = field(default_factory=Threat)
    rule: StepRule | None = None
    loss: LossName = "margin"
    targeted: bool = False
    max_steps: int = 20
    num_restarts: int = 0
    stop_at_success: bool = True
    picture_limit: float | None = None
    penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.loss not in get_args(LossName):
            raise ValueError(
                f"loss must be one of {', '.join(get_args(LossName))}, not {self.loss!r}"
            )
        if self.max_steps < 1 or self.num_restarts < 0:
            raise ValueError(
                "max_steps must be at least 1 and num_restarts not negative, not "
                f"{self.max_steps} and {self.num_restarts}"
            )
        if self.num_restarts and self.threat.radius is None:
            raise ValueError("a restart is drawn inside the radius, and there is none: set it")
        for name in ("picture_limit", "penalty"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, not {value}")
        if self.rule is None:
            object.__setattr__(self, "rule", build_rule("apgd", self.threat, self.max_steps))

    @property
    def steps(self) -> StepRule:
        """The rule of the steps."""
        assert self.rule is not None
        return self.rule

    def value(self, logits: Tensor, goals: Tensor, excess: Tensor | None) -> Tensor:
        """Return what is climbed, (batch,).

        Args:
            logits: (batch, classes).
            goals: (batch,) the class to be lost, or if targeted to be reached.
            excess: (batch,) how far pictures are beyond the limit, as a multiple of it, at least 0.
        """
        loss = LOSSES[self.loss](logits, goals, self.targeted)
        return loss if excess is None else loss - self.penalty * excess

    def fooled(self, logits: Tensor, goals: Tensor) -> Tensor:
        """Return whether the criterion is met, (batch,)."""
        return margin(logits, goals, self.targeted) > 0
