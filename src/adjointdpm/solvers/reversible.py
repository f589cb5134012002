"""Algebraically reversible samplers: a pair of states, changed one at a time by the other.

Every method here keeps two states and takes turns: ``pair[i] <- weight pair[i] + g(pair[1 - i])``.
Whatever g is, the old ``pair[i]`` can be had back from the new one, as in a reversible network, so
the whole run can be walked backwards from its end to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..form import DATA, Form, Point
from ..plan import Plan
from ..schedule import Schedule
from .model import Model, first_order, transfer
from .runge_kutta import (
    BOGACKI_SHAMPINE,
    DORMAND_PRINCE,
    EULER,
    HEUN,
    MIDPOINT,
    RALSTON,
    RK4,
    Tableau,
    step,
)
from .tape import Row, Tape

TABLEAUS = {
    "euler": EULER,
    "heun": HEUN,
    "midpoint": MIDPOINT,
    "ralston": RALSTON,
    "bs3": BOGACKI_SHAMPINE,
    "rk4": RK4,
    "dopri5": DORMAND_PRINCE,
}
"""The one-step methods that McCallum and Foster's coupling makes reversible."""


@dataclass(frozen=True)
class Shear:
    """The change ``pair[target] <- weight * pair[target] + increment(pair[1 - target])``.

    Args:
        target: which of the two states changes, 0 or 1.
        weight: what is kept of it; not 0, or there would be no way back.
        increment: a small plan, whose noise is the other state and whose sample is added.
    """

    target: int
    weight: float
    increment: Plan


@dataclass(frozen=True)
class Reversal:
    """A reversible sampler: both states start as the scaled noise, and shears change them.

    Args:
        scale: of the standard-normal latent at the start.
        shears: the changes, in order.
        newest: which of the states has come to the end.
        closing: the step from there to the sample, which cannot be undone, since no noise is left
            at its end; None where the newest state is the sample.
        name: for messages and reports.
    """

    scale: float
    shears: tuple[Shear, ...]
    newest: int
    closing: Plan | None
    name: str

    @property
    def parts(self) -> list[Plan]:
        """The plans of the shears, then that of the closing step: all network calls in order."""
        closing = [] if self.closing is None else [self.closing]
        return [*(shear.increment for shear in self.shears), *closing]

    @property
    def timesteps(self) -> list[float]:
        """The network's time at every call."""
        return [float(t) for part in self.parts for t in part.timesteps]

    def plan(self) -> Plan:
        """Return the whole sampler as one table."""
        tape = Tape(len(self.timesteps))

        def apply(part: Plan, x: Row) -> Row:
            values = [x]
            for coefficients, t in zip(part.inputs, part.timesteps, strict=True):
                stage = _combination(coefficients, values)
                values.append(tape.call(stage, float(t), starts_step=len(values) == 1))
            return _combination(part.sample, values)

        pair = [self.scale * tape.noise, self.scale * tape.noise]
        for shear in self.shears:
            change = apply(shear.increment, pair[1 - shear.target])
            pair[shear.target] = shear.weight * pair[shear.target] + change
        sample = pair[self.newest]
        if self.closing is not None:
            sample = apply(self.closing, sample)
        prediction_type = self.parts[0].prediction_type
        return tape.plan(sample, name=self.name, prediction_type=prediction_type)


def _combination(coefficients: NDArray[np.float64], values: Sequence[Row]) -> Row:
    """Return the combination of the values that there are; later coefficients are zero."""
    return sum((c * v for c, v in zip(coefficients, values, strict=False)), 0 * values[0])


@dataclass(frozen=True)
class _Recorder:
    """Writes down functions of one state as plans."""

    schedule: Schedule
    prediction_type: str

    def record(self, calls: int, function: Callable[[Model, Row], Row]) -> Plan:
        """Return the plan of ``function(model, x)``."""
        tape = Tape(calls)
        model = Model(tape, self.schedule, self.prediction_type)
        row = function(model, tape.noise)
        return tape.plan(row, name="increment", prediction_type=self.prediction_type)

    def increment(self, tableau: Tableau, form: Form, start: Point, end: Point) -> Plan:
        """Return the plan of ``u(end) - u(start)`` by one Runge-Kutta step, from x at the start."""

        def function(model: Model, x: Row) -> Row:
            drift = model.drift(form, start, end)
            u, tau = x / form.scale(start), form.tau(start)
            return step(tableau, drift, u, tau, form.tau(end) - tau)[0] - u

        return self.record(len(tableau.b), function)


def _scaled(plan: Plan, factor: float, kept: float = 0.0) -> Plan:
    """Return the plan of ``factor * sample + kept * noise``."""
    table = plan.table.copy()
    table[-1] *= factor
    table[-1, 0] += kept
    return Plan(plan.timesteps, table, prediction_type=plan.prediction_type, name=plan.name)


def mccallum_foster(
    recorder: _Recorder, points: Sequence[Point], tableau: Tableau, coupling: float
) -> list[Shear]:
    """Couple any one-step method to a copy of itself that steps back (arXiv 2410.11648).

    With Psi_h the method's increment in the data form: ``y <- c y + (1 - c) z + Psi_h(z)``, then
    ``z <- z - Psi_-h(y)``. The order is that of the method, at twice its calls. A coupling c below
    1 pulls the pair together, and makes the way back less stable by ``c^-N``.
    """
    shears = []
    for start, end in pairwise(points):
        there = recorder.increment(tableau, DATA, start, end)
        back = recorder.increment(tableau, DATA, end, start)
        ratio, scale = end.sigma / start.sigma, end.sigma
        shears += [
            Shear(0, coupling * ratio, _scaled(there, scale, (1 - coupling) * ratio)),
            Shear(1, ratio, _scaled(back, -scale)),
        ]
    # Nobody reads the last change of z.
    return shears[:-1]


def bdia(recorder: _Recorder, points: Sequence[Point], coupling: float) -> list[Shear]:
    """Bi-directional integration approximation of DDIM (arXiv 2307.10829), one call a step.

    The next state is DDIM's from here, plus ``c`` times what DDIM's way back from here misses of
    the last state. The authors' code calls ``1 - c`` gamma.
    """

    def function(older: Point, here: Point, newer: Point) -> Callable[[Model, Row], Row]:
        def increment(model: Model, x: Row) -> Row:
            answer = model(x, here)
            ahead = first_order(DATA, answer, newer, x)
            return ahead - coupling * first_order(DATA, answer, older, x)

        return increment

    triples = zip(points, points[1:], points[2:], strict=False)
    return [
        _first_step(recorder, points),
        *(
            Shear(i % 2, coupling, recorder.record(1, function(*triple)))
            for i, triple in enumerate(triples)
        ),
    ]


def belm(recorder: _Recorder, points: Sequence[Point]) -> list[Shear]:
    """Optimal bidirectional explicit linear multistep method (O-BELM, arXiv 2410.07273).

    The leapfrog method with the weights of the actual grid, of order 2 with one call a step, in the
    noise form (in the flow form where the start has no data at all).
    """
    form = Form.finite(points[0], points[-1])
    shears = [_first_step(recorder, points)]
    for i, (older, here, newer) in enumerate(zip(points, points[1:], points[2:], strict=False)):
        h, last_h = form.tau(newer) - form.tau(here), form.tau(here) - form.tau(older)
        kept, scale = (h / last_h) ** 2, form.scale(newer)
        # One Euler step is h times the slope.
        slope = recorder.increment(EULER, form, here, newer)
        increment = _scaled(slope, scale * (1 + h / last_h), scale / form.scale(here) * (1 - kept))
        shears.append(Shear(i % 2, kept * scale / form.scale(older), increment))
    return shears


def _first_step(recorder: _Recorder, points: Sequence[Point]) -> Shear:
    """Return the DDIM step that gives a two-step method its second state."""
    start, end = points[:2]
    kept, gained = transfer(DATA, start, end)
    # The pair starts from equal states, so the linear part may read the one that changes.
    increment = recorder.record(1, lambda model, x: gained * model(x, start).predict(DATA))
    return Shear(1, kept, increment)


def reversal(
    family: str,
    schedule: Schedule,
    points: Sequence[Point],
    prediction_type: str,
    *,
    scale: float,
    coupling: float,
    solver: str,
) -> Reversal:
    """Return the reversible sampler of a family on given points.

    Args:
        family: ``mccallum_foster``, ``bdia`` or ``belm``.
        schedule: the process.
        points: the grid, from noise to image.
        prediction_type: what the network's output is.
        scale: of the standard-normal latent at the start.
        coupling: of McCallum and Foster or of BDIA.
        solver: one of `TABLEAUS`, for McCallum and Foster.
    """
    recorder = _Recorder(schedule, prediction_type)
    closing, end = None, points[-1]
    if end.sigma == 0:
        # The step to the clean image forgets where it came from.
        points, before = points[:-1], points[-2]
        closing = recorder.record(1, lambda model, x: first_order(DATA, model(x, before), end, x))
    shears: list[Shear] = []
    if len(points) > 1:
        if family == "mccallum_foster":
            shears = mccallum_foster(recorder, points, TABLEAUS[solver], coupling)
        elif family == "bdia":
            shears = bdia(recorder, points, coupling)
        else:
            shears = belm(recorder, points)
    newest = shears[-1].target if shears else 0
    return Reversal(scale, tuple(shears), newest, closing, f"reversible {family}")
