"""The learning rate as a function of the step alone: a resumed run has nothing to restore."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .config import OptimizeConfig


def learning_rate_schedule(config: OptimizeConfig) -> Callable[[int], float]:
    """Return the learning rate by step, from 1.

    The names and curves are those of transformers, which are those of diffusers: the first update
    of a run with a warm-up has the learning rate 0.

    >>> config = OptimizeConfig(learning_rate=0.1, lr_scheduler="cosine", max_train_steps=10)
    >>> [round(learning_rate_schedule(config)(step), 3) for step in (1, 6, 10)]
    [0.1, 0.05, 0.002]

    Args:
        config: ``lr_scheduler``, and the settings that go with it.
    """
    if config.lr_scheduler == "constant":
        return lambda step: config.learning_rate
    from transformers import get_scheduler  # slow to import

    options: dict[str, dict[str, Any]] = {
        "cosine_with_restarts": {"num_cycles": config.lr_num_cycles},
        "polynomial": {"power": config.lr_power},
    }
    scheduler = get_scheduler(
        config.lr_scheduler,
        # Only its learning rate is looked at.
        torch.optim.SGD([torch.zeros(())], lr=config.learning_rate),
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_train_steps,
        scheduler_specific_kwargs=options.get(config.lr_scheduler),
    )
    (factor,) = scheduler.lr_lambdas
    return lambda step: config.learning_rate * factor(step - 1)
