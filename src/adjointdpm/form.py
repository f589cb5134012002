"""The forms in which the sampling ODE has no linear term.

With ``x = alpha x_0 + sigma eps``, each form has a time ``tau`` and a state ``u = x / scale`` whose
derivative is a combination of the predicted x_0 and eps alone:

- noise: tau = sigma / alpha,         u = x / alpha,               du/dtau = eps
- data:  tau = alpha / sigma,         u = x / sigma,               du/dtau = x_0
- flow:  tau = sigma / (alpha+sigma), u = x / (alpha+sigma),       du/dtau = eps - x_0
- angle: tau = atan2(sigma, alpha),   u = x / hypot(alpha, sigma), du/dtau = eps cos - x_0 sin

An ordinary ODE method in any of them is an exponential integrator. The noise form is AdjointDPM's
(arXiv 2307.10711, eq. 10). It is not finite where no data is left (zero terminal SNR, rectified
flow), the data form not where no noise is left; the flow and the angle form always are. Only the
angle form is not exact in one step where x_0 and eps are constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from .prediction import Linear, to_noise, to_sample
from .schedule import Schedule

FormName = Literal["noise", "data", "flow", "angle"]


@dataclass(frozen=True)
class Point:
    """A point of the process: the network's time and what its input holds there."""

    t: float
    alpha: float
    sigma: float

    @classmethod
    def at(cls, schedule: Schedule, t: float) -> Point:
        """Return the point of a schedule at time ``t``."""
        return cls(t, schedule.alpha(t), schedule.sigma(t))

    @classmethod
    def all_at(cls, schedule: Schedule, times: np.ndarray) -> list[Point]:
        """Return the points of a schedule at several times."""
        columns = times, schedule.alpha(times), schedule.sigma(times)
        return [cls(*values) for values in zip(*(c.tolist() for c in columns), strict=True)]


@dataclass(frozen=True)
class Form:
    """One of the forms of the sampling ODE."""

    name: FormName

    def __post_init__(self) -> None:
        if self.name not in get_args(FormName):
            raise ValueError(
                f"form {self.name!r} is not known; use {', '.join(get_args(FormName))}"
            )

    @classmethod
    def finite(cls, start: Point, end: Point) -> Form:
        """Return the noise form where it is finite, the flow form where it is not."""
        return cls("noise" if start.alpha > 0 and end.alpha > 0 else "flow")

    def tau(self, point: Point) -> float:
        """Return the form's time."""
        if self.name == "angle":
            return math.atan2(point.sigma, point.alpha)
        if self.name == "flow":
            return point.sigma / (point.alpha + point.sigma)
        top, bottom = (
            (point.sigma, point.alpha) if self.name == "noise" else (point.alpha, point.sigma)
        )
        return top / bottom if bottom else math.inf

    def scale(self, point: Point) -> float:
        """Return what the state is multiplied with to get the network's input."""
        if self.name == "angle":
            return math.hypot(point.alpha, point.sigma)
        if self.name == "flow":
            return point.alpha + point.sigma
        return point.alpha if self.name == "noise" else point.sigma

    def point(self, schedule: Schedule, tau: float) -> Point:
        """Return the point of the schedule at the form's time ``tau``."""
        if self.name == "noise":
            ratio = tau
        elif self.name == "data":
            ratio = 1 / tau if tau else math.inf
        elif self.name == "flow":
            ratio = tau / (1 - tau) if tau < 1 else math.inf
        else:
            ratio = math.tan(tau)
        return Point.at(schedule, schedule.time(ratio))

    def drift(self, prediction_type: str, point: Point) -> Linear:
        """Return ``a, b`` such that ``du/dtau = a x + b f``, x the input, f the output."""
        if self.name == "noise":
            return to_noise(prediction_type, point.alpha, point.sigma)
        if self.name == "data":
            return to_sample(prediction_type, point.alpha, point.sigma)
        cosine, sine = 1.0, 1.0
        if self.name == "angle":
            norm = math.hypot(point.alpha, point.sigma)
            cosine, sine = point.alpha / norm, point.sigma / norm
        noise = to_noise(prediction_type, point.alpha, point.sigma)
        sample = to_sample(prediction_type, point.alpha, point.sigma)
        return Linear(*(cosine * e - sine * s for e, s in zip(noise, sample, strict=True)))
