"""Curves and pictures of a run, for TensorBoard and whatever else accelerate has a tracker for."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .config import OptimizeConfig

LOGS, PROJECT = "logs", "adjointdpm"
"""The folder of the trackers that write files, and what a run is called there."""
PACKAGES = {"comet_ml": "comet-ml"}
"""What to install for a tracker, where it is not called like the tracker."""


class Tracker:
    """Logs nothing: that of a run without ``report_to``."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers of a step."""

    def log_images(self, name: str, images: np.ndarray, step: int) -> None:
        """Log pictures, (batch, height, width, 3) of 8 bits."""

    def finish(self) -> None:
        """Write what has not been written yet."""


class AccelerateTracker(Tracker):
    """Hands on to one of accelerate's.

    Args:
        config: settings; ``report_to`` is set.
        steps: how many were made before. What a killed run logged after its last checkpoint is
            logged anew, and no longer shown.

    Raises:
        ImportError: the tracker is not installed.
    """

    def __init__(self, config: OptimizeConfig, steps: int) -> None:
        name = str(config.report_to)
        check_tracker(name)
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        if name not in LOGGER_TYPE_TO_CLASS:
            raise ImportError(f"this accelerate knows no report_to {name}: install a newer one")
        kind = LOGGER_TYPE_TO_CLASS[name]
        options: dict[str, Any] = {}
        if kind.requires_logging_directory:
            options["logging_dir"] = str(Path(str(config.output_dir)) / LOGS)
        if name == "tensorboard":
            _wait_for_a_later_name(Path(options["logging_dir"]) / PROJECT)
            options["purge_step"] = steps + 1
        self._tracker = kind(PROJECT, **options)
        if hasattr(self._tracker, "start"):  # those of accelerate before 1.9 start when made
            self._tracker.start()
        if steps == 0:
            self._tracker.store_init_configuration(_plain(config))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers of a step."""
        self._tracker.log(dict(values), step=step)

    def log_images(self, name: str, images: np.ndarray, step: int) -> None:
        """Log pictures, (batch, height, width, 3) of 8 bits."""
        options = {"dataformats": "NHWC"} if self._tracker.name == "tensorboard" else {}
        self._tracker.log_images({name: images}, step=step, **options)

    def finish(self) -> None:
        """Write what has not been written yet."""
        self._tracker.finish()


def check_tracker(name: str) -> None:
    """Raise unless a tracker is installed.

    Raises:
        ImportError: it is not.
    """
    if importlib.util.find_spec(name) is None:
        raise ImportError(
            f"report_to {name} needs a package: pip install {PACKAGES.get(name, name)}. "
            "tensorboard is there already"
        )


def start_tracker(config: OptimizeConfig, steps: int) -> Tracker:
    """Return the tracker that the settings name.

    Args:
        config: settings.
        steps: how many were made before.

    Raises:
        ImportError: it is not installed.
    """
    return Tracker() if config.report_to is None else AccelerateTracker(config, steps)


def _wait_for_a_later_name(folder: Path) -> None:
    """Wait until a file that TensorBoard begins would come last by name.

    It reads files in the order of their names, which begin with the second they were made in. Of
    two of one second, a run that was killed and what goes on from it, the later may come first by
    name; then the numbers that it is to replace are shown in place of its own. A clock that is
    further back than some seconds is not waited for.
    """
    seconds = [int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*")]
    missing = max(seconds, default=0) + 1 - time.time()
    if 0 < missing < 10:
        time.sleep(missing)


def _plain(config: OptimizeConfig) -> dict[str, bool | int | float | str]:
    """Return settings as every tracker takes them."""
    values = asdict(config).items()
    return {name: v if isinstance(v, bool | int | float) else str(v) for name, v in values}
