"""The forms in which the sampling ODE has no linear term, and the ODE itself.

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
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

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


class Form(ABC):
    """One of the forms of the sampling ODE; `Form.named` returns one of the four.

    >>> Form.named("flow").tau(Point(0.5, alpha=0.6, sigma=0.6))
    0.5
    """

    name: ClassVar[str]

    @staticmethod
    def named(name: str) -> Form:
        """Return the form of a name: ``noise``, ``data``, ``flow`` or ``angle``.

        Raises:
            ValueError: there is no such form.
        """
        if name not in FORMS:
            raise ValueError(f"form {name!r} is not known; use {', '.join(FORMS)}")
        return FORMS[name]

    @staticmethod
    def finite(start: Point, end: Point) -> Form:
        """Return the noise form where it is finite, the flow form where it is not."""
        return NOISE if start.alpha > 0 and end.alpha > 0 else FLOW

    @abstractmethod
    def tau(self, point: Point) -> float:
        """Return the form's time."""

    @abstractmethod
    def scale(self, point: Point) -> float:
        """Return what the state is multiplied with to get the network's input."""

    @abstractmethod
    def slope(self, point: Point) -> tuple[float, float]:
        """Return ``c, d`` such that ``du/dtau = c x_0 + d eps``."""

    @abstractmethod
    def point(self, schedule: Schedule, tau: float) -> Point:
        """Return the point of the schedule at the form's time ``tau``."""

    def drift(self, prediction_type: str, point: Point) -> Linear:
        """Return ``a, b`` such that ``du/dtau = a x + b f``, x the input, f the output."""
        of_sample, of_noise = self.slope(point)
        a = b = 0.0
        # What has no part in the slope is not asked for: an output need not say it.
        for weight, convert in ((of_noise, to_noise), (of_sample, to_sample)):
            if weight:
                x_weight, output_weight = convert(prediction_type, point.alpha, point.sigma)
                a, b = a + weight * x_weight, b + weight * output_weight
        return Linear(a, b)

    def check_finite(self, *points: Point) -> None:
        """Raise ValueError unless time and state of the form are finite at all ``points``."""
        for point in points:
            if not (math.isfinite(self.tau(point)) and self.scale(point)):
                raise ValueError(
                    f"the {self.name} form is not finite on this schedule: at t = {point.t:g} "
                    f"x is {point.alpha:.3g} x_0 + {point.sigma:.3g} eps. Use form='flow' or "
                    "'angle', which are finite everywhere"
                )


def _at_ratio(schedule: Schedule, ratio: float) -> Point:
    return Point.at(schedule, schedule.time(ratio))


@dataclass(frozen=True)
class _NoiseForm(Form):
    name = "noise"

    def tau(self, point: Point) -> float:
        return point.sigma / point.alpha if point.alpha else math.inf

    def scale(self, point: Point) -> float:
        return point.alpha

    def slope(self, point: Point) -> tuple[float, float]:
        return 0.0, 1.0

    def point(self, schedule: Schedule, tau: float) -> Point:
        return _at_ratio(schedule, tau)


@dataclass(frozen=True)
class _DataForm(Form):
    name = "data"

    def tau(self, point: Point) -> float:
        return point.alpha / point.sigma if point.sigma else math.inf

    def scale(self, point: Point) -> float:
        return point.sigma

    def slope(self, point: Point) -> tuple[float, float]:
        return 1.0, 0.0

    def point(self, schedule: Schedule, tau: float) -> Point:
        return _at_ratio(schedule, 1 / tau if tau else math.inf)


@dataclass(frozen=True)
class _FlowForm(Form):
    name = "flow"

    def tau(self, point: Point) -> float:
        return point.sigma / (point.alpha + point.sigma)

    def scale(self, point: Point) -> float:
        return point.alpha + point.sigma

    def slope(self, point: Point) -> tuple[float, float]:
        return -1.0, 1.0

    def point(self, schedule: Schedule, tau: float) -> Point:
        return _at_ratio(schedule, tau / (1 - tau) if tau < 1 else math.inf)


@dataclass(frozen=True)
class _AngleForm(Form):
    name = "angle"

    def tau(self, point: Point) -> float:
        return math.atan2(point.sigma, point.alpha)

    def scale(self, point: Point) -> float:
        return math.hypot(point.alpha, point.sigma)

    def slope(self, point: Point) -> tuple[float, float]:
        norm = math.hypot(point.alpha, point.sigma)
        return -point.sigma / norm, point.alpha / norm

    def point(self, schedule: Schedule, tau: float) -> Point:
        return _at_ratio(schedule, math.tan(tau))


NOISE, DATA, FLOW, ANGLE = _NoiseForm(), _DataForm(), _FlowForm(), _AngleForm()
FORMS: dict[str, Form] = {form.name: form for form in (NOISE, DATA, FLOW, ANGLE)}


@dataclass(frozen=True)
class SamplingOde:
    """The sampling ODE in a form, ``du/dtau = a x + b network(x, t)`` with ``x = scale u``.

    States are whatever the network takes: tensors, or rows of coefficients.

    Args:
        form: its coordinates.
        schedule: the process.
        prediction_type: what the network's output is.
        points: where the network's time is known exactly; elsewhere it is found from tau.
    """

    form: Form
    schedule: Schedule
    prediction_type: str
    points: Sequence[Point] = ()

    @cached_property
    def _known(self) -> dict[float, Point]:
        return {self.form.tau(point): point for point in self.points}

    def point(self, tau: float) -> Point:
        """Return the point of the process at the form's time ``tau``."""
        return self._known.get(tau) or self.form.point(self.schedule, tau)

    def weights(self, point: Point) -> Linear:
        """Return ``a, b`` of the right side at a point."""
        return self.form.drift(self.prediction_type, point)

    def drift(self, network: Callable[..., Any]) -> Callable[..., Any]:
        """Return the right side as ODE methods ask it, ``drift(u, tau, **marks)``.

        Args:
            network: ``network(x, point, **marks)`` answers the input x at a point with its output;
                what marks a call (``starts_step``) is handed on.
        """

        def drift(u: Any, tau: float, **marks: Any) -> Any:
            point = self.point(tau)
            x = self.form.scale(point) * u
            a, b = self.weights(point)
            return a * x + b * network(x, point, **marks)

        return drift
