"""Solvers: functions that fill in plans, in float64, without tensors or state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from ..plan import Plan
from ..prediction import check_prediction_type, to_noise, to_sample
from ..process import Schedule
from .form import Form, FormName, Point
from .grid import SPACINGS, grid
from .multistep import adams_bashforth, dpmpp_2m
from .runge_kutta import EULER, HEUN, MIDPOINT, RK4, Drift, runge_kutta
from .tape import Row, Tape

__all__ = ["ODE_SOLVERS", "SOLVERS", "SPACINGS", "Form", "build", "grid", "integrate"]

ODE_SOLVERS: dict[str, Callable[..., Row]] = {
    "euler": partial(runge_kutta, EULER),
    "heun": partial(runge_kutta, HEUN),
    "midpoint": partial(runge_kutta, MIDPOINT),
    "rk4": partial(runge_kutta, RK4),
    "ab2": partial(adams_bashforth, 2),
    "ab3": partial(adams_bashforth, 3),
    "ab4": partial(adams_bashforth, 4),
}
"""Methods for ``du/dtau = drift(u, tau)`` on a given grid."""

CALLS_PER_STEP = 4
"""The most network calls that a step of any solver makes."""


def ddim(tape: Tape, points: Sequence[Point], prediction_type: str, x: Row) -> Row:
    """DDIM (arXiv 2010.02502, eq. 12 with eta 0): Euler in the noise and in the data form."""
    for point, following in pairwise(points):
        output = tape.call(x, point.t)
        a, b = to_sample(prediction_type, point.alpha, point.sigma)
        c, d = to_noise(prediction_type, point.alpha, point.sigma)
        sample, noise = a * x + b * output, c * x + d * output
        x = following.alpha * sample + following.sigma * noise
    return x


DIFFUSION_SOLVERS: dict[str, Callable[..., Row]] = {"ddim": ddim, "dpmpp_2m": dpmpp_2m}
"""Methods written in x, with the limits at both ends taken."""

SOLVERS = (*DIFFUSION_SOLVERS, *ODE_SOLVERS)
"""The names that `build` knows."""


def integrate(solver: str, taus: Sequence[float], name: str = "") -> Plan:
    """Return the plan of an ODE ``du/dtau = f`` on the grid ``taus``: inputs u, outputs f.

    Args:
        solver: one of `ODE_SOLVERS`.
        taus: grid from start to end; it becomes the plan's timesteps.
        name: of the plan.

    Raises:
        ValueError: the solver is not known.
    """
    if solver not in ODE_SOLVERS:
        raise ValueError(f"solver {solver!r} is not known; use one of {', '.join(ODE_SOLVERS)}")
    tape = Tape(CALLS_PER_STEP * (len(taus) - 1))
    return tape.plan(ODE_SOLVERS[solver](tape.call, taus, tape.noise), name=name or solver)


def build(
    solver: str,
    schedule: Schedule,
    num_inference_steps: int,
    spacing: str = "linspace",
    prediction_type: str = "epsilon",
    *,
    timesteps: Sequence[float] | None = None,
    final_sigmas_type: str = "zero",
    form: FormName | None = None,
) -> Plan:
    """Build the plan of a solver.

    Args:
        solver: ``ddim``, ``dpmpp_2m``, or an ODE method in one of the forms of the ODE: ``euler``,
            ``heun``, ``midpoint``, ``rk4``, ``ab2``, ``ab3``, ``ab4``.
        schedule: the process that the network was trained for.
        num_inference_steps: number of steps; Runge-Kutta methods call the network more often.
        spacing: one of `SPACINGS`.
        prediction_type: what the network's output is.
        timesteps: custom descending times in place of a spacing.
        final_sigmas_type: ``zero`` to end at the clean image, ``sigma_min`` at the last time.
        form: ``noise``, ``data``, ``flow`` or ``angle`` for ODE methods; by default the noise
            form, or the flow form where the start has no data at all.

    Returns:
        The plan, in float64.

    Raises:
        ValueError: an unknown word or a grid with no steps.

    >>> plan = build("heun", Schedule.vp_linear(), 10)
    >>> plan.num_calls
    19
    """
    check_prediction_type(prediction_type)
    points = grid(
        schedule, num_inference_steps, spacing,
        timesteps=timesteps, final_sigmas_type=final_sigmas_type,
    )  # fmt: skip
    tape = Tape(CALLS_PER_STEP * len(points))
    x = schedule.init_noise_sigma(points[0].t) * tape.noise
    if solver in DIFFUSION_SOLVERS:
        sample = DIFFUSION_SOLVERS[solver](tape, points, prediction_type, x)
    elif solver in ODE_SOLVERS:
        chosen = Form(form) if form else Form.finite(points[0], points[-1])
        drift = _drift(tape, chosen, schedule, points, prediction_type)
        taus = [chosen.tau(point) for point in points]
        u = x / chosen.scale(points[0])
        open_end = points[-1].sigma == 0
        u = ODE_SOLVERS[solver](drift, taus, u, open_end=open_end)
        sample = chosen.scale(points[-1]) * u
    else:
        raise ValueError(f"solver {solver!r} is not known; use one of {', '.join(SOLVERS)}")
    return tape.plan(sample, name=solver, prediction_type=prediction_type)


def _drift(
    tape: Tape, form: Form, schedule: Schedule, points: Sequence[Point], prediction_type: str
) -> Drift:
    """Return the sampling ODE in a form, as a function of rows that records its network calls."""
    # On the grid the times are exact; only stages between grid points go through the inverse.
    on_grid: dict[float, Point] = {form.tau(point): point for point in points}

    def drift(u: Row, tau: float, **marks: Any) -> Row:
        point = on_grid.get(tau) or form.point(schedule, tau)
        x = form.scale(point) * u
        a, b = form.drift(prediction_type, point)
        return a * x + b * tape.call(x, point.t, **marks)

    return drift
