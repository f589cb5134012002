"""Samplers that draw noise on the way. The drawn noise is an input of the plan, like the start.

The gradient through such a plan is the pathwise one: the noise is held fixed. No step to the clean
image draws any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from ..form import DATA, NOISE, Form, Point
from .model import Model, log_snr, spans_finite
from .runge_kutta import EULER, HEUN, step
from .tape import Row

ROUNDING = 1e-9


def ddim(model: Model, points: Sequence[Point], x: Row, *, eta: float = 0.0) -> Row:
    """DDIM (arXiv 2010.02502, eq. 12 and 16): eta 0 is the ODE, eta 1 ancestral sampling.

    In terms of ``r = sigma / alpha`` a step from r to r' renews the variance
    ``eta^2 r'^2 (r^2 - r'^2) / r^2``, which for VP processes is eq. 16, with eta 1 the posterior
    variance of DDPM (arXiv 2006.11239, eq. 7), and for VE processes k-diffusion's Euler ancestral.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be between 0 and 1, not {eta}")
    for start, end in pairwise(points):
        here = model(x, start)
        renewed = eta * end.sigma * math.sqrt(1 - _remaining(start, end) ** 2)
        kept = math.sqrt(end.sigma**2 - renewed**2)
        x = end.alpha * here.predict(DATA) + kept * here.predict(NOISE)
        if renewed:
            x = x + renewed * model.tape.draw()
    return x


def _remaining(start: Point, end: Point) -> float:
    """Return ``r' / r``, the share of the noise ratio that a step leaves; 0 from pure noise."""
    return (end.sigma / start.sigma) * (start.alpha / end.alpha)


def sde_dpmpp_2m(model: Model, points: Sequence[Point], x: Row) -> Row:
    """SDE-DPM-Solver++(2M) (arXiv 2211.01095, appendix): the SDE in data form, midpoint rule.

    Equals diffusers' ``algorithm_type="sde-dpmsolver++"`` of order 2.
    """
    older: tuple[Point, Row] | None = None
    for start, end in pairwise(points):
        sample = model(x, start).predict(DATA)
        left = _remaining(start, end)
        estimate = sample
        if older is not None and older[0].alpha > 0 and spans_finite(start, end):
            h, last_h = (log_snr(end) - log_snr(start)), (log_snr(start) - log_snr(older[0]))
            estimate = sample + 0.5 * h / last_h * (sample - older[1])
        x = (end.sigma / start.sigma) * left * x + end.alpha * (1 - left**2) * estimate
        if end.sigma > 0:
            x = x + end.sigma * math.sqrt(1 - left**2) * model.tape.draw()
        older = start, sample
    return x


def edm_churn(
    model: Model,
    points: Sequence[Point],
    x: Row,
    *,
    s_churn: float = 40.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Row:
    """EDM's stochastic sampler (arXiv 2206.00364, algorithm 2): noise is added, then a Heun step.

    In other processes sigma is read as ``r = sigma / alpha``. The raised noise level never exceeds
    that of ``t_max``: the network knows no other. diffusers' Euler schedulers also take an
    ``s_churn``, but they ask the network before the noise is added, at the lower level.

    Args:
        model: the network.
        points: the grid.
        x: the start.
        s_churn: how much noise is renewed, over the whole run.
        s_tmin: smallest ratio at which noise is added.
        s_tmax: largest ratio at which noise is added.
        s_noise: standard deviation of the added noise.
    """
    form = Form.finite(points[0], points[-1])
    most = model.schedule.ratio(model.schedule.t_max)
    gamma = min(s_churn / (len(points) - 1), math.sqrt(2) - 1)
    for start, end in pairwise(points):
        ratio = start.sigma / start.alpha if start.alpha else math.inf
        raised = min(ratio * (1 + gamma), most) if s_tmin <= ratio <= s_tmax else ratio
        if ratio * (1 + ROUNDING) < raised < math.inf:
            noisier = Point.at(model.schedule, model.schedule.time(raised))
            added = s_noise * math.sqrt(raised**2 - ratio**2)
            x = noisier.alpha * (x / start.alpha + added * model.tape.draw())
            start = noisier
        x = _heun_step(model, form, start, end, x)
    return x


def _heun_step(model: Model, form: Form, start: Point, end: Point, x: Row) -> Row:
    """Return Heun's step, or where it ends at the clean image Euler's."""
    drift = model.drift(form, start, end)
    u, tau = x / form.scale(start), form.tau(start)
    tableau = HEUN if end.sigma > 0 else EULER
    return form.scale(end) * step(tableau, drift, u, tau, form.tau(end) - tau)[0]
