"""What a run cost, and on what."""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from ..version import __version__
from .processes import local_rank


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What the result of every job tells of its run.

    Args:
        seconds: how long all of it took; a run that went on counts from there.
        peak_memory: the most bytes that were held.
        environment: versions and machine.
    """

    seconds: float
    peak_memory: int
    environment: dict[str, str]

    def usage(self) -> dict[str, Any]:
        """Return it as ``numbers.json`` names it."""
        return {
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory,
            "environment": self.environment,
        }


def usage_since(started: float, device: torch.device) -> dict[str, Any]:
    """Return the fields of `RunResult`, when all is done.

    Args:
        started: what ``time.perf_counter`` said.
        device: where the work was done.
    """
    return {
        "seconds": time.perf_counter() - started,
        "peak_memory": peak_memory(device),
        "environment": environment(device),
    }


def choose_device(name: str | None) -> torch.device:
    """Return a device by its name; by default a GPU if there is one.

    Where a launcher started several processes, ``cuda`` is a GPU of each one's own.

    Raises:
        ValueError: there is no such device here.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{local_rank()}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is not known; use cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {name!r} was asked for, but this torch ({torch.__version__}) sees no CUDA "
            "device; use cpu, or install a build of torch for CUDA"
        )
    return device


def peak_memory(device: torch.device) -> int:
    """Return the most bytes ever held: of the GPU where there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def environment(device: torch.device) -> dict[str, str]:
    """Return the versions and the machine that a run depends on."""
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    else:
        machine = f"{platform.machine()} CPU, {torch.get_num_threads()} of {os.cpu_count()} threads"
    return {**versions(), "device": machine}


def versions() -> dict[str, str]:
    """Return the versions that the numbers of a run depend on."""
    return {
        "adjointdpm": __version__,
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "transformers": version("transformers"),
        "Python": platform.python_version(),
    }
