"""Embedded Runge-Kutta pairs that choose their own steps, recorded as plans.

The network is asked once, forward and without a graph, to find the steps that keep the local error
within a tolerance. The accepted steps are then written down as a `Plan` on a fixed grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import torch
from torch import Tensor

from .conditioning import sample_of
from .denoiser import Denoiser
from .form import Form, FormName, Point, SamplingOde
from .plan import Plan
from .solvers import (
    PAIRS,
    EmbeddedPair,
    build_on,
    first_guess,
    first_step_length,
    step,
    step_factor,
)


@overload
def adaptive(
    denoiser: Denoiser, noise: Tensor, cond: dict[str, Any] | None = ..., *,
    per_sample: Literal[False] = ..., **settings: Any,
) -> Plan: ...  # fmt: skip
@overload
def adaptive(
    denoiser: Denoiser, noise: Tensor, cond: dict[str, Any] | None = ..., *,
    per_sample: Literal[True], **settings: Any,
) -> list[Plan]: ...  # fmt: skip
def adaptive(
    denoiser: Denoiser,
    noise: Tensor,
    cond: dict[str, Any] | None = None,
    *,
    per_sample: bool = False,
    **settings: Any,
) -> Plan | list[Plan]:
    """Choose the steps of an embedded pair for these latents, and return them as a plan.

    The plan is the method on the accepted grid. Its gradient is that of the frozen grid: the steps
    are constants, and how their choice depends on the latent, the conditioning and the weights is
    not differentiated. (It is not smooth, and of the order of the tolerance.) Run on the same
    latents the plan repeats the accepted steps; on others it is a fixed grid like any other, with
    no promise of the tolerance.

    Args:
        denoiser: the network.
        noise: (batch, ...) standard-normal latents, in float32 or float64.
        cond: conditioning, as the sampler would be given it by keyword.
        per_sample: choose a grid for each sample, and return a list of plans; `sample_each` runs
            them. Otherwise one grid serves the batch, by the norm over all of it.
        **settings: of the search, see `find_steps`: ``solver`` ("dopri5", "bs3" or "heun"),
            ``rtol``, ``atol``, ``form``, ``final_sigmas_type``, ``max_steps``.

    Returns:
        A plan, or one a sample. Its name tells the accepted and rejected steps.

    Raises:
        ValueError: an unknown word, or a tolerance that is not positive.
        RuntimeError: more than ``max_steps`` steps, or steps that shrink to nothing.

    >>> from adjointdpm import Schedule
    >>> denoiser = Denoiser(lambda x, t: 0.5 * x, Schedule.vp_linear())
    >>> plan = adaptive(denoiser, torch.ones(1, 2), solver="bs3", rtol=1e-2, atol=1e-2)
    >>> plan.num_calls < 200
    True
    """
    cond = cond or {}
    if not per_sample:
        return find_steps(denoiser, noise, cond, **settings)
    return [
        find_steps(denoiser, noise[i : i + 1], sample_of(cond, i, len(noise)), **settings)
        for i in range(len(noise))
    ]


@torch.no_grad()
def find_steps(
    denoiser: Denoiser,
    noise: Tensor,
    cond: dict[str, Any],
    *,
    solver: str = "dopri5",
    rtol: float = 1e-3,
    atol: float = 1e-3,
    form: FormName | None = None,
    final_sigmas_type: str = "zero",
    max_steps: int = 1000,
) -> Plan:
    """Integrate forward with a PI step size controller; return the accepted steps as a plan.

    The error of a step, ``e / (atol + rtol max(|u|, |u'|))`` in root mean square over all entries,
    is to be below 1. The next step is ``h 0.9 e^(-0.7/k) e_previous^(0.4/k)`` (Hairer et al., IV.2,
    eq. 2.43), k the order of the estimate.

    Args:
        denoiser: the network.
        noise: (batch, ...) latents.
        cond: conditioning.
        solver: one of `PAIRS`.
        rtol: relative tolerance, on the state u of the form.
        atol: absolute tolerance, likewise.
        form: of the ODE. The data form, the default, needs the fewest calls for what it delivers on
            data with fine structure, the noise form the most (docs/solvers.md).
        final_sigmas_type: ``zero`` adds a step from the last time to the clean image, with no
            error estimate; ``sigma_min`` ends at the last time.
        max_steps: the most steps to try.
    """
    if solver not in PAIRS:
        raise ValueError(f"no embedded pair {solver!r}; use one of {', '.join(PAIRS)}")
    if rtol < 0 or atol < 0 or rtol + atol == 0:
        raise ValueError(f"tolerances must be positive, not rtol={rtol}, atol={atol}")
    if final_sigmas_type not in ("zero", "sigma_min"):
        raise ValueError(f"final_sigmas_type must be zero or sigma_min, not {final_sigmas_type!r}")
    schedule = denoiser.schedule
    start, end = Point.at(schedule, schedule.t_max), Point.at(schedule, schedule.t_min)
    form = form or "data"
    chosen = Form.named(form)
    chosen.check_finite(start, end)
    ode = SamplingOde(chosen, schedule, denoiser.prediction_type, (start, end))
    drift = drift_of(ode, denoiser, cond)
    noise = noise.to(torch.promote_types(noise.dtype, torch.float32))
    u = noise * (schedule.init_noise_sigma(start.t) / chosen.scale(start))
    tried = [
        (attempt.end, attempt.accepted)
        for attempt in attempts(
            PAIRS[solver], drift, u, chosen.tau(start), chosen.tau(end), rtol, atol, max_steps
        )
    ]
    accepted = [tau for tau, within in tried if within]
    points = [start, *(chosen.point(schedule, tau) for tau in accepted[:-1]), end]
    if final_sigmas_type == "zero" and end.sigma > 0:
        points.append(Point(schedule.t_min, 1.0, 0.0))
    plan = build_on(solver, schedule, points, denoiser.prediction_type, form=form)
    rejected = len(tried) - len(accepted)
    name = f"adaptive {solver} ({len(accepted)} steps accepted, {rejected} rejected)"
    return replace(plan, name=name)


def drift_of(ode: SamplingOde, denoiser: Denoiser, cond: dict[str, Any]) -> Callable[..., Tensor]:
    """Return the sampling ODE as a function of tensors, ``drift(u, tau)``.

    Args:
        ode: its coordinates.
        denoiser: the network.
        cond: conditioning.
    """
    return ode.drift(lambda x, point, **_: denoiser(x, point.t, **cond))


@dataclass(frozen=True)
class Attempt:
    """One step that was tried.

    Args:
        end: where it ends.
        u: state at its end.
        accepted: whether its error was within the tolerance.
    """

    end: float
    u: Any
    accepted: bool


def attempts(
    pair: EmbeddedPair,
    drift: Callable[..., Any],
    u: Any,
    start: float,
    end: float,
    rtol: float,
    atol: float,
    max_steps: int,
    *,
    h: float | None = None,
    before: Callable[[float], None] | None = None,
) -> Iterator[Attempt]:
    """Step from ``start`` to ``end`` with a PI step size controller; yield what was tried.

    Args:
        pair: the method.
        drift: the right side, ``drift(u, tau)``; the slope at the start of a step is asked for once
            and outside the step.
        u: state at the start.
        start: where to start.
        end: where to end, to either side.
        rtol: relative tolerance.
        atol: absolute tolerance.
        max_steps: the most steps to try.
        h: the first step to try; by default found with one more call.
        before: is told the length of each step before its stages.

    Raises:
        RuntimeError: more than ``max_steps`` steps, or steps that shrink to nothing.
    """
    k = pair.error_order
    tau, rejected, previous = start, 0, 1.0
    slope: Any = drift(u, start)
    if h is None:
        h = first_step(drift, u, slope, start, end, rtol, atol, k)
    for _ in range(max_steps):
        slope = drift(u, tau) if slope is None else slope
        last = abs(h) >= abs(end - tau) * (1 - 1e-9)
        following = end if last else tau + h
        if following == tau:
            raise RuntimeError(f"the step size has become too small at tau = {tau:g}")
        if before is not None:
            before(following - tau)
        ahead: Any
        ahead, slopes = step(pair.tableau, drift, u, tau, following - tau, first=slope)
        closing = None
        if len(pair.error) > len(slopes):
            closing = drift(ahead, following)
            slopes.append(closing)
        difference: Any = (following - tau) * sum(
            w * s for w, s in zip(pair.error, slopes, strict=True) if w
        )
        scale = atol + rtol * torch.maximum(u.abs(), ahead.abs())
        error = max(_rms(difference / scale), 1e-10)
        yield Attempt(following, ahead, error <= 1)
        h = (following - tau) * step_factor(error, previous, k)
        if error > 1:
            rejected += 1
        elif last:
            return
        else:
            tau, u, slope, previous = following, ahead, closing, error
    raise RuntimeError(
        f"{max_steps} steps were not enough (tau = {tau:g} of {end:g}, {rejected} rejected); "
        "raise the tolerances or max_steps"
    )


def first_step(
    drift: Callable[..., Any],
    u: Any,
    slope: Any,
    start: float,
    end: float,
    rtol: float,
    atol: float,
    k: int,
) -> float:
    """Return a first step by Hairer et al., II.4: two slopes tell the scale of the second one."""
    scale, span = atol + rtol * u.abs(), abs(end - start)
    size, steepness = _rms(u / scale), _rms(slope / scale)
    guess = math.copysign(first_guess(size, steepness, span), end - start)
    bend = _rms((drift(u + guess * slope, start + guess) - slope) / scale) / abs(guess)
    return math.copysign(first_step_length(steepness, bend, abs(guess), span, k), end - start)


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
