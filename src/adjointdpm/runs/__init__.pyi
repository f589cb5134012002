"""The loop under every job: config, checkpoints, folder, machine."""

from .checkpoint import History
from .config import OptimizeConfig, check_seed
from .folder import run_folder
from .loop import optimize
from .machine import choose_device, environment, peak_memory

__all__ = [
    "History",
    "OptimizeConfig",
    "check_seed",
    "choose_device",
    "environment",
    "optimize",
    "peak_memory",
    "run_folder",
]
