"""Where a sampler calls the network: spacings of timesteps from noise to image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ..form import Point
from ..schedule import Schedule
from .align_your_steps import (
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_XL,
    STABLE_VIDEO_DIFFUSION,
    FittedSteps,
)

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
    if schedule.t_min > 0:
        return np.linspace(schedule.t_max, 0, steps + 1)[:count]
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


def _ays(fitted: FittedSteps, schedule: Schedule, count: int, steps: int) -> np.ndarray:
    whole = fitted.timesteps
    if whole is not None and count == len(whole) and schedule.t_max == 999 and schedule.t_min == 0:
        return np.array(whole, dtype=float)
    # For other numbers of steps the paper interpolates the ten log-linearly.
    ratios = np.array(fitted.ratios)
    at = np.linspace(0, len(ratios) - 1, count)
    times = schedule.time(np.exp(np.interp(at, np.arange(len(ratios)), np.log(ratios))))
    return np.clip(times, schedule.t_min, schedule.t_max)


SPACINGS: dict[str, Spacing] = {
    "linspace": _linspace,
    "quadratic": _quadratic,
    "leading": _leading,
    "trailing": _trailing,
    "karras": _karras,
    "exponential": _exponential,
    "log_snr": _exponential,
    "ays_sd": partial(_ays, STABLE_DIFFUSION),
    "ays_sdxl": partial(_ays, STABLE_DIFFUSION_XL),
    "ays_svd": partial(_ays, STABLE_VIDEO_DIFFUSION),
}
"""Known spacings.

``linspace``, ``leading`` and ``trailing`` are diffusers' (arXiv 2305.08891, table 2), ``linspace``
without rounding to whole timesteps; ``trailing`` on a continuous schedule is ``t_max k / N``, what
flow-matching pipelines use. ``quadratic`` is uniform in sqrt(t) (arXiv 2010.02502, appendix D.3),
``log_snr`` (also ``exponential``) uniform in log-SNR (arXiv 2206.00927), ``karras`` is arXiv
2206.00364, eq. 5, and ``ays_*`` are the tables of Align Your Steps (arXiv 2404.14507) for three
models.
"""


def _shifted(schedule: Schedule, times: np.ndarray, shift: float) -> np.ndarray:
    if shift == 1.0:
        return times
    if shift <= 0:
        raise ValueError(f"shift must be positive, not {shift}")
    if np.isfinite(schedule.ratio(schedule.t_max)):
        raise ValueError(
            "shift is for flow matching, whose process has a time for every noise ratio; use "
            "another spacing, such as karras, to move the steps of this schedule"
        )
    return schedule.time(shift * schedule.ratio(times))


def _at_the_ends(schedule: Schedule, times: np.ndarray) -> np.ndarray:
    """Return the times with those at an end of the schedule, but for rounding, exactly there.

    A start that holds no data must not become one that holds 1e-15 of it.
    """
    for end in (schedule.t_max, schedule.t_min):
        times = np.where(np.isclose(times, end, rtol=1e-12, atol=0.0), end, times)
    return times


def grid(
    schedule: Schedule,
    num_inference_steps: int,
    spacing: str = "linspace",
    *,
    timesteps: Sequence[float] | None = None,
    final_sigmas_type: str = "zero",
    shift: float = 1.0,
    steps_offset: int = 0,
) -> list[Point]:
    """Return the ``num_inference_steps + 1`` points that a sampler steps through.

    Args:
        schedule: the process.
        num_inference_steps: number of steps.
        spacing: one of `SPACINGS`.
        timesteps: custom descending times in place of a spacing.
        final_sigmas_type: ``zero`` ends at the clean image, one step after the last time;
            ``sigma_min`` ends at the last time of the spacing itself. What other codes call
            "denoise to zero" after N steps is ``zero`` with N + 1 steps.
        shift: multiplies the noise ratio of every time (flow matching, arXiv 2403.03206, eq. 23).
            On the straight-line process that is ``s t / (1 + (s - 1) t)``.
        steps_offset: added to the times of ``leading``, as in the configs of Stable Diffusion.

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
        if spacing == "leading":
            times = times + steps_offset
        times = _at_the_ends(schedule, _shifted(schedule, times, shift))
    if len(times) < (1 if to_zero else 2):
        raise ValueError("there is no step to take: give more timesteps")
    if (np.diff(times) >= 0).any():
        raise ValueError("timesteps must descend, from the noisy end to the clean one")
    points = Point.all_at(schedule, np.asarray(times, dtype=np.float64))
    return [*points, Point(schedule.t_min, 1.0, 0.0)] if to_zero else points
