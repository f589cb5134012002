"""The loop under every job: config, checkpoints, folder, machine."""

from .callbacks import Callback, Step
from .checkpoint import History
from .config import (
    LATEST,
    FolderConfig,
    OptimizeConfig,
    RunConfig,
    ScheduleName,
    check_at_least_1,
    check_choice,
    check_seed,
)
from .folder import run_folder
from .interruption import StoppedError
from .loop import optimize
from .machine import RunResult, choose_device, environment, peak_memory, usage_since
from .processes import is_main_process, join_processes, num_processes, share
from .trackers import Tracker

__all__ = [
    "LATEST",
    "Callback",
    "FolderConfig",
    "History",
    "OptimizeConfig",
    "RunConfig",
    "RunResult",
    "ScheduleName",
    "Step",
    "StoppedError",
    "Tracker",
    "check_at_least_1",
    "check_choice",
    "check_seed",
    "choose_device",
    "environment",
    "is_main_process",
    "join_processes",
    "num_processes",
    "optimize",
    "peak_memory",
    "run_folder",
    "share",
    "usage_since",
]
