"""The network as solvers ask it, and the first-order step that all of them share.

Exponential solvers integrate the prediction p of a form (x_0 in the data form, eps in the noise
form) against an exponential of ``lambda = log(alpha / sigma)``. Both forms are one formula: with
``u = x / scale`` and time ``tau`` (see `form`), ``du = p dtau``, and ``log tau`` is lambda in the
data form and -lambda in the noise form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..form import DATA, NOISE, Form, Point, SamplingOde
from ..schedule import Schedule
from .runge_kutta import Drift
from .tape import Row, Tape


@dataclass(frozen=True, eq=False)
class Answer:
    """A network call: where, with which input, and its output, as rows."""

    point: Point
    x: Row
    output: Row
    prediction_type: str

    def predict(self, form: Form) -> Row:
        """Return the predicted eps for the noise form, x_0 for the data form."""
        a, b = form.drift(self.prediction_type, self.point)
        return a * self.x + b * self.output


@dataclass(frozen=True)
class Model:
    """What a solver written in x is given.

    Args:
        tape: where calls are recorded.
        schedule: the process.
        prediction_type: what the network's output is.
        form: in which it integrates: the noise form for eps, the data form for x_0.
    """

    tape: Tape
    schedule: Schedule
    prediction_type: str
    form: Form = DATA

    def __call__(self, x: Row, point: Point, *, starts_step: bool = True) -> Answer:
        """Call the network with the input ``x`` at a point."""
        output = self.tape.call(x, point.t, starts_step=starts_step)
        return Answer(point, x, output, self.prediction_type)

    def drift(self, form: Form, *points: Point) -> Drift:
        """Return the sampling ODE in a form, with ``points`` whose times are known exactly."""
        ode = SamplingOde(form, self.schedule, self.prediction_type, points)
        return ode.drift(lambda x, point, **marks: self.tape.call(x, point.t, **marks))

    def between(self, start: Point, end: Point, fraction: float) -> Point:
        """Return the point at a fraction of the way from ``start`` to ``end`` in log-SNR."""
        log_ratio = -(1 - fraction) * log_snr(start) - fraction * log_snr(end)
        return Point.at(self.schedule, self.schedule.time(math.exp(log_ratio)))


def log_snr(point: Point) -> float:
    """Return ``lambda = log(alpha / sigma)`` with its limits."""
    if point.alpha == 0 or point.sigma == 0:
        return -math.inf if point.alpha == 0 else math.inf
    return math.log(point.alpha / point.sigma)


def transfer(form: Form, start: Point, end: Point) -> tuple[float, float]:
    """Return ``a, b`` of the step ``a x + b p`` that is exact for a constant prediction p.

    That is DDIM's step (arXiv 2010.02502, eq. 12), written with one of its two predictions.
    """
    if form == NOISE:
        shrink = end.alpha / start.alpha
        return shrink, end.sigma - shrink * start.sigma
    shrink = end.sigma / start.sigma
    return shrink, end.alpha - shrink * start.alpha


def first_order(form: Form, answer: Answer, end: Point, x: Row) -> Row:
    """Return DDIM's step from ``x`` to ``end``; where no data is left, in the data form."""
    if answer.point.alpha == 0:
        form = DATA
    a, b = transfer(form, answer.point, end)
    return a * x + b * answer.predict(form)


def spans_finite(start: Point, end: Point) -> bool:
    """Return whether the log-SNR is finite at both points; higher orders need it."""
    return start.alpha > 0 and end.sigma > 0
