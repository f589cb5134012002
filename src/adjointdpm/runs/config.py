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
        learning_rate: the optimiser's step size.
        optimizer: name of the optimiser; ``adamw8bit`` saves memory where many weights are
            trained. See `build_optimizer`.
        lr_scheduler: ``constant``, or ``cosine`` to let the learning rate fall to zero at
            ``max_train_steps``.
        max_train_steps: number of updates.
        seed: seeds the generator that the loss draws from, from 0 to 2**32 - 1.
        output_dir: folder of the checkpoints.
        checkpointing_steps: number of updates between two checkpoints; None for no checkpoints.
        resume_from_checkpoint: a checkpoint folder to go on from, or ``latest`` for the last one in
            ``output_dir`` that is whole, if there is one. The run goes on as if it had never
            stopped.
        progress_bar: whether to show a progress bar.
        description: label of the progress bar.
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
        check_seed(self.seed)
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


def check_seed(seed: int) -> None:
    """Raise unless a seed can seed every generator that is made from it.

    Raises:
        ValueError: it is negative, or has more than 32 bits.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be between 0 and 2**32 - 1, not {seed}")
