"""The names of all solvers, and `build`, which makes a plan of one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ..form import DATA, NOISE, Form, FormName, Point
from ..plan import Plan
from ..prediction import check_prediction_type
from ..schedule import Schedule
from .exponential import deis, dpm_multistep, dpm_singlestep, dpm_solver, unipc
from .grid import grid
from .implicit import adams_moulton
from .model import Model
from .multistep import adams_bashforth
from .runge_kutta import (
    BOGACKI_SHAMPINE,
    DORMAND_PRINCE,
    EULER,
    HEUN,
    MIDPOINT,
    RALSTON,
    RK4,
    runge_kutta,
)
from .stochastic import ddim, edm_churn, sde_dpmpp_2m
from .tape import Row, Tape

ODE_SOLVERS: dict[str, Callable[..., Row]] = {
    "euler": partial(runge_kutta, EULER),
    "heun": partial(runge_kutta, HEUN),
    "midpoint": partial(runge_kutta, MIDPOINT),
    "ralston": partial(runge_kutta, RALSTON),
    "bs3": partial(runge_kutta, BOGACKI_SHAMPINE),
    "rk4": partial(runge_kutta, RK4),
    "dopri5": partial(runge_kutta, DORMAND_PRINCE),
    "ab1": partial(runge_kutta, EULER),
    "ab2": partial(adams_bashforth, 2),
    "ab3": partial(adams_bashforth, 3),
    "ab4": partial(adams_bashforth, 4),
    "am2": partial(adams_moulton, 2),
    "am3": partial(adams_moulton, 3),
    "am4": partial(adams_moulton, 4),
}
"""Methods for ``du/dtau = drift(u, tau)`` on a given grid."""

NOISE_SOLVERS: dict[str, Callable[..., Row]] = {
    "deis1": partial(deis, order=1),
    "deis2": partial(deis, order=2),
    "deis3": partial(deis, order=3),
    "deis_rho2": partial(deis, order=2, variable="rho"),
    "deis_rho3": partial(deis, order=3, variable="rho"),
    "deis_t2": partial(deis, order=2, variable="t"),
    "deis_t3": partial(deis, order=3, variable="t"),
    "lms": partial(deis, order=4, variable="rho", extrapolate_to_zero=True),
    "dpm_solver_2": partial(dpm_solver, order=2),
    "dpm_solver_3": partial(dpm_solver, order=3),
}
"""Exponential integrators of eps, or of x_0 with ``form="data"``."""

DATA_SOLVERS: dict[str, Callable[..., Row]] = {
    "dpmpp_1s": partial(dpm_solver, order=1),
    "dpmpp_2s": partial(dpm_solver, order=2),
    "dpmpp_2m": partial(dpm_multistep, order=2),
    "dpmpp_3m": partial(dpm_multistep, order=3),
    "dpm_singlestep_2": partial(dpm_singlestep, order=2),
    "dpm_singlestep_3": partial(dpm_singlestep, order=3),
    "unipc_bh1_1": partial(unipc, order=1, variant="bh1"),
    "unipc_bh1_2": partial(unipc, order=2, variant="bh1"),
    "unipc_bh1_3": partial(unipc, order=3, variant="bh1"),
    "unipc_bh2_1": partial(unipc, order=1, variant="bh2"),
    "unipc_bh2_2": partial(unipc, order=2, variant="bh2"),
    "unipc_bh2_3": partial(unipc, order=3, variant="bh2"),
}
"""Exponential integrators of x_0, or of eps with ``form="noise"``."""

STOCHASTIC_SOLVERS: dict[str, Callable[..., Row]] = {
    "ddpm": partial(ddim, eta=1.0),
    "euler_ancestral": partial(ddim, eta=1.0),
    "sde_dpmpp_2m": sde_dpmpp_2m,
    "edm_churn": edm_churn,
}
"""Methods that draw noise on the way; ``ddim`` with an ``eta`` above 0 is another."""

DIFFUSION_SOLVERS: dict[str, Callable[..., Row]] = {
    "ddim": ddim,
    **NOISE_SOLVERS,
    **DATA_SOLVERS,
    **STOCHASTIC_SOLVERS,
}
"""Methods written in x, with the limits at both ends taken."""

SOLVERS = (*DIFFUSION_SOLVERS, *ODE_SOLVERS)
"""The names that `build` knows."""

CALLS_PER_STEP = 6
"""The most network calls that a step of any solver makes, at its default options."""


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
    shift: float = 1.0,
    steps_offset: int = 0,
    **options: Any,
) -> Plan:
    """Build the plan of a solver.

    Args:
        solver: one of `SOLVERS`; docs/solvers.md says what each is and which to take.
        schedule: the process that the network was trained for.
        num_inference_steps: number of steps; Runge-Kutta methods call the network more often.
        spacing: one of `SPACINGS`.
        prediction_type: what the network's output is.
        timesteps: custom descending times in place of a spacing.
        final_sigmas_type: ``zero`` to end at the clean image, ``sigma_min`` at the last time.
        form: ``noise``, ``data``, ``flow`` or ``angle`` for ODE methods; by default the noise
            form, or the flow form where the start has no data at all. ``noise`` or ``data`` for
            exponential integrators; by default the one of their paper.
        shift: timestep shift of flow matching; see `grid`.
        steps_offset: see `grid`.
        **options: the solver's own, such as ``eta`` of ``ddim``, ``s_churn`` of ``edm_churn``,
            ``corrections`` of ``am2``.

    Returns:
        The plan, in float64.

    Raises:
        ValueError: an unknown word, an option that the solver does not have, or a grid with no
            steps.

    >>> plan = build("heun", Schedule.vp_linear(), 10)
    >>> plan.num_calls
    19
    >>> build("ddim", Schedule.vp_linear(), 10, eta=1.0).num_draws
    9
    """
    check_prediction_type(prediction_type)
    points = grid(
        schedule, num_inference_steps, spacing,
        timesteps=timesteps, final_sigmas_type=final_sigmas_type,
        shift=shift, steps_offset=steps_offset,
    )  # fmt: skip
    return build_on(solver, schedule, points, prediction_type, form=form, options=options)


def build_on(
    solver: str,
    schedule: Schedule,
    points: Sequence[Point],
    prediction_type: str = "epsilon",
    *,
    form: FormName | None = None,
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """Build the plan of a solver on given points; arguments as in `build`."""
    options = dict(options or {})
    if solver not in SOLVERS:
        raise ValueError(f"solver {solver!r} is not known; use one of {', '.join(SOLVERS)}")
    _check_options(solver, options)
    calls = max(CALLS_PER_STEP, 1 + options.get("corrections", 0))
    tape = Tape(calls * len(points), max_draws=len(points))
    x = schedule.init_noise_sigma(points[0].t) * tape.noise
    if solver in DIFFUSION_SOLVERS:
        if form in ("flow", "angle"):
            raise ValueError(f"{solver} has a noise and a data form, but no {form} form")
        own = Form.named(form) if form else NOISE if solver in NOISE_SOLVERS else DATA
        model = Model(tape, schedule, prediction_type, own)
        sample = DIFFUSION_SOLVERS[solver](model, points, x, **options)
    else:
        chosen = Form.named(form) if form else Form.finite(points[0], points[-1])
        model = Model(tape, schedule, prediction_type, chosen)
        sample = _integrate_form(partial(ODE_SOLVERS[solver], **options), model, points, x)
    return tape.plan(sample, name=solver, prediction_type=prediction_type)


def _check_options(solver: str, options: Mapping[str, Any]) -> None:
    function = DIFFUSION_SOLVERS.get(solver) or ODE_SOLVERS[solver]
    fixed = function.keywords if isinstance(function, partial) else {}
    known = {
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in (*fixed, "open_end")
    }
    unknown = set(options) - known
    if unknown:
        has = f"has {', '.join(sorted(known))}" if known else "has none"
        raise ValueError(f"{solver} has no option {min(unknown)!r}; it {has}")


def _integrate_form(
    integrator: Callable[..., Row], model: Model, points: Sequence[Point], x: Row
) -> Row:
    """Return the sample of an ODE method in the model's form, on the points."""
    form, open_end = model.form, points[-1].sigma == 0
    form.check_finite(points[0], points[-2] if open_end and form == DATA else points[-1])
    drift, taus = model.drift(form, *points), [form.tau(point) for point in points]
    u = x / form.scale(points[0])
    if open_end and form == DATA:
        # The clean image is at infinity: the limit of an Euler step there is the predicted x_0.
        u = integrator(drift, taus[:-1], u)
        return points[-1].alpha * drift(u, taus[-2])
    u = integrator(drift, taus, u, open_end=open_end)
    return form.scale(points[-1]) * u
