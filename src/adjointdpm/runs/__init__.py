"""The loop under every job: config, checkpoints, the machine."""

from .loop import History, OptimizeConfig, optimize
from .machine import choose_device, environment, peak_memory

__all__ = [
    "History",
    "OptimizeConfig",
    "choose_device",
    "environment",
    "optimize",
    "peak_memory",
]
