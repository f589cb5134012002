"""Where a sampler calls the network: spacings of timesteps from noise to image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..process import Schedule
from .form import Point

Spacing = Callable[[Schedule, int, int], np.ndarray]
"""``(schedule, number of times, steps to cover) -> times``, descending from the noisy end."""


def _linspace(schedule: Schedule, count: int, steps: int) -> np.ndarray:
    return np.linspace(schedule.t_max, schedule.t_min, count)


def _quadratic(schedule: Schedule, count: int, steps: int) -> np.ndarray:
    return np.linspace(schedule.t_max**0.5, schedule.t_min**0.5, count) ** 2


def _leading(schedule: Schedule, count: int, steps: int) -> np.ndarray:
    total = _num_train_timesteps(schedule, "leading")
    return (np.arange(count) * (total // steps))[::-1].astype(float)


def _trailing(schedule: Schedule, count: int, steps: int) -> np.ndarray:
    total = _num_train_timesteps(schedule, "trailing")
    return np.round(np.arange(total, 0, -total / steps))[:count] - 1.0


def _num_train_timesteps(schedule: Schedule, spacing: str) -> int:
    if schedule.t_min != 0:
        raise ValueError(
            f"spacing {spacing!r} is for schedules of whole timesteps, read from a diffusers "
            "config; use linspace, karras or exponential with a continuous one"
        )
    return int(schedule.t_max) + 1


def _bounded_ratios(schedule: Schedule, spacing: str) -> tuple[float, float]:
    high, low = schedule.ratio(schedule.t_max), schedule.ratio(schedule.t_min)
    if not np.isfinite(high):
        raise ValueError(
            f"spacing {spacing!r} needs a finite noise ratio at the start, but this schedule "
            "starts with no data at all; use linspace, quadratic or trailing"
        )
    return high, low


def _karras(schedule: Schedule, count: int, steps: int, rho: float = 7.0) -> np.ndarray:
    high, low = _bounded_ratios(schedule, "karras")
    return schedule.time(np.linspace(high ** (1 / rho), low ** (1 / rho), count) ** rho)


def _exponential(schedule: Schedule, count: int, steps: int) -> np.ndarray:
    high, low = _bounded_ratios(schedule, "exponential")
    return schedule.time(np.geomspace(high, low, count))


SPACINGS: dict[str, Spacing] = {
    "linspace": _linspace,
    "quadratic": _quadratic,
    "leading": _leading,
    "trailing": _trailing,
    "karras": _karras,
    "exponential": _exponential,
}
"""Known spacings. ``exponential`` is uniform in log-SNR; ``karras`` is arXiv 2206.00364, eq. 5."""


def grid(
    schedule: Schedule,
    num_inference_steps: int,
    spacing: str = "linspace",
    *,
    timesteps: Sequence[float] | None = None,
    final_sigmas_type: str = "zero",
) -> list[Point]:
    """Return the ``num_inference_steps + 1`` points that a sampler steps through.

    Args:
        schedule: the process.
        num_inference_steps: number of steps.
        spacing: one of `SPACINGS`.
        timesteps: custom descending times in place of a spacing.
        final_sigmas_type: ``zero`` ends at the clean image, one step after the last time;
            ``sigma_min`` ends at the last time of the spacing itself.

    Raises:
        ValueError: unknown words, zero steps, or times that do not descend.
    """
    if final_sigmas_type not in ("zero", "sigma_min"):
        raise ValueError(f"final_sigmas_type must be zero or sigma_min, not {final_sigmas_type!r}")
    to_zero = final_sigmas_type == "zero"
    if timesteps is not None:
        times = np.asarray(timesteps, dtype=np.float64)
    else:
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, not {num_inference_steps}")
        if spacing not in SPACINGS:
            raise ValueError(f"spacing {spacing!r} is not known; use one of {', '.join(SPACINGS)}")
        count = num_inference_steps + (0 if to_zero else 1)
        times = SPACINGS[spacing](schedule, count, num_inference_steps)
    if len(times) < (1 if to_zero else 2):
        raise ValueError("there is no step to take: give more timesteps")
    if (np.diff(times) >= 0).any():
        raise ValueError("timesteps must descend, from the noisy end to the clean one")
    points = [Point.at(schedule, float(t)) for t in times]
    return [*points, Point(schedule.t_min, 1.0, 0.0)] if to_zero else points
