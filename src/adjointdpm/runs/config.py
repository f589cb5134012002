"""The settings of the loop, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

OptimizerName = Literal["adam", "adamw", "adamw8bit"]


@dataclass(frozen=True)
class OptimizeConfig:
    """Settings of the loop.

    Args:
        learning_rate: of the optimiser.
        optimizer: see `build_optimizer`; ``adamw8bit`` saves memory where many weights are trained.
        lr_scheduler: ``constant``, or ``cosine`` to let it fall to zero at ``max_train_steps``.
        max_train_steps: how many updates.
        seed: of the generator that the loss draws from.
        output_dir: where checkpoints go.
        checkpointing_steps: write a checkpoint every so many steps; None for none.
        resume_from_checkpoint: a checkpoint folder to go on from, or ``latest`` for the last one in
            ``output_dir``, if there is one. The run goes on as if it had never stopped.
        progress_bar: whether to show one.
        description: its label.
    """

    learning_rate: float = 0.05
    optimizer: OptimizerName = "adam"
    lr_scheduler: Literal["constant", "cosine"] = "constant"
    max_train_steps: int = 30
    seed: int = 0
    output_dir: str | Path | None = None
    checkpointing_steps: int | None = None
    resume_from_checkpoint: str | Path | None = None
    progress_bar: bool = True
    description: str = "optimising"

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        if self.optimizer not in get_args(OptimizerName):
            raise ValueError(
                f"optimizer must be one of {', '.join(get_args(OptimizerName))}, not "
                f"{self.optimizer!r}"
            )
        if self.lr_scheduler not in ("constant", "cosine"):
            raise ValueError(f"lr_scheduler must be constant or cosine, not {self.lr_scheduler!r}")
        if self.max_train_steps < 1:
            raise ValueError(f"max_train_steps must be at least 1, not {self.max_train_steps}")
        if self.checkpointing_steps is not None and self.checkpointing_steps < 1:
            raise ValueError(
                f"checkpointing_steps must be at least 1, not {self.checkpointing_steps}"
            )
        needs_folder = self.checkpointing_steps or self.resume_from_checkpoint == "latest"
        if needs_folder and self.output_dir is None:
            raise ValueError("checkpoints need a place: set output_dir")

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step, from 1.

        >>> config = OptimizeConfig(learning_rate=0.1, lr_scheduler="cosine", max_train_steps=10)
        >>> [round(config.learning_rate_at(step), 3) for step in (1, 6, 10)]
        [0.1, 0.05, 0.002]
        """
        if self.lr_scheduler == "constant":
            return self.learning_rate
        progress = (step - 1) / self.max_train_steps
        return 0.5 * self.learning_rate * (1 + math.cos(math.pi * progress))
