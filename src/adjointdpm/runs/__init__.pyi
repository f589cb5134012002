"""The loop under every job: config, checkpoints, the machine."""

from .config import OptimizeConfig
from .loop import History, optimize
from .machine import choose_device, environment, peak_memory

__all__ = [
    "History",
    "OptimizeConfig",
    "choose_device",
    "environment",
    "optimize",
    "peak_memory",
]
