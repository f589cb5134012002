"""Exponential integrators: DEIS, DPM-Solver, DPM-Solver++ and UniPC, each in both forms.

All of them integrate ``du = p dtau`` (see `model`) with p approximated by a polynomial; they differ
in the variable of the polynomial and in how it is fitted. A step from where no data is left, or to
the clean image, spans an infinite log-SNR; it is of first order, as in the papers' codes and in
diffusers. In a later step a node at infinity drops out of the polynomial: that is its limit.

Multistep methods start with lower orders, as their papers do. The first step, of order one, leaves
an error of O(h^2) behind however high the order of the others is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from ..form import NOISE, Point
from .model import Answer, Model, first_order, log_snr, spans_finite, transfer
from .multistep import gauss_legendre, lagrange_integrals
from .tape import Row

FEW_STEPS = 15
"""Below this many steps diffusers lowers the order of the last but one (``lower_order_final``)."""


def phi(k: int, z: float) -> float:
    """Return ``phi_k(z) = int_0^1 e^(z (1 - s)) s^(k-1) / (k-1)! ds``, without cancellation.

    >>> round(phi(1, 1.0) - math.expm1(1.0), 12)
    0.0
    """
    nodes, weights = gauss_legendre(32)
    s = 0.5 * (nodes + 1)
    return float(0.5 * np.sum(weights * np.exp(z * (1 - s)) * s ** (k - 1)) / math.factorial(k - 1))


def _signed_step(model: Model, start: Point, end: Point) -> tuple[float, float]:
    """Return z, the step in log tau with the sign of the papers' hh, and the amount ``-c z``.

    A Taylor term ``h^k p^(k)`` of the prediction weighs ``amount phi_{k+1}(z)`` in the step.
    """
    h = log_snr(end) - log_snr(start)
    if model.form == NOISE:
        return h, -end.sigma * h
    return -h, end.alpha * h


# Single-step: DPM-Solver-2 and -3


def _second(model: Model, start: Answer, inner: Answer, end: Point, x: Row) -> Row:
    """DPM-Solver-2 (arXiv 2206.00927, algorithm 4) with its stage anywhere in the step."""
    a, b = transfer(model.form, start.point, end)
    r = _fraction(start.point, inner.point, end)
    p = start.predict(model.form)
    return a * x + b * (p + (inner.predict(model.form) - p) / (2 * r))


def _third(model: Model, start: Answer, inner: Answer, end: Point, x: Row) -> Row:
    """Return the last stage of DPM-Solver-3 (arXiv 2206.00927, algorithm 5, eq. for u_2 and x)."""
    a, b = transfer(model.form, start.point, end)
    z, amount = _signed_step(model, start.point, end)
    r = _fraction(start.point, inner.point, end)
    p = start.predict(model.form)
    return a * x + b * p + amount * phi(2, z) / r * (inner.predict(model.form) - p)


def _fraction(start: Point, inner: Point, end: Point) -> float:
    return (log_snr(inner) - log_snr(start)) / (log_snr(end) - log_snr(start))


def dpm_solver(model: Model, points: Sequence[Point], x: Row, *, order: int) -> Row:
    """DPM-Solver-2 and -3 (arXiv 2206.00927, algorithms 4 and 5); 2S of DPM-Solver++ in data form.

    Each step of the grid has stages of its own, at 1/2, or 1/3 and 2/3, of its log-SNR.
    """
    for start, end in pairwise(points):
        here = model(x, start)
        if order == 1 or not spans_finite(start, end):
            x = first_order(model.form, here, end, x)
            continue
        middle = model.between(start, end, 1 / order)
        inner = model(first_order(model.form, here, middle, x), middle, starts_step=False)
        if order == 2:
            x = _second(model, here, inner, end, x)
            continue
        middle = model.between(start, end, 2 / 3)
        # Eq. for u_2 is that of x itself, on the first two thirds of the step.
        inner = model(_third(model, here, inner, middle, x), middle, starts_step=False)
        x = _third(model, here, inner, end, x)
    return x


def dpm_singlestep(model: Model, points: Sequence[Point], x: Row, *, order: int) -> Row:
    """DPM-Solver with the grid's own points as stages: one network call a step of the grid.

    Every ``order`` steps of the grid are one step of the method; the last ones are of lower order,
    so that the whole is at best of second order. Equals diffusers' DPMSolverSinglestepScheduler.
    """
    if points[0].alpha == 0:
        x, points = first_order(model.form, model(x, points[0]), points[1], x), points[1:]
    i = 0
    for size in _groups(len(points) - 1, order, points[-1].sigma == 0):
        here = model(x, points[i])
        ends = points[i + 1 : i + 1 + size]
        stages = [first_order(model.form, here, ends[0], x)]
        for j, end in enumerate(ends[1:]):
            inner = model(stages[-1], ends[j], starts_step=False)
            rule = _second if j == 0 else _third
            stages.append(rule(model, here, inner, end, x))
        x, i = stages[-1], i + size
    return x


def _groups(steps: int, order: int, open_end: bool) -> list[int]:
    """Return the orders of the method's steps; they sum to the steps of the grid."""
    if steps == 0:
        return []
    full, rest = divmod(steps - 1, order)
    tail = {0: [1], 1: [2], 2: [2, 1]}[rest]
    if rest == 1 and (open_end or order == 2):
        tail = [1, 1]
    return [*[order] * full, *tail]


# Multistep: DPM-Solver, DPM-Solver++, DEIS


def _order_now(order: int, history: Sequence[Answer], points: Sequence[Point], step: int) -> int:
    """Return the order of a step: lower at the start, at an infinite end and just before it."""
    steps, start, end = len(points) - 1, points[step], points[step + 1]
    if not spans_finite(start, end):
        return 1
    if points[-1].sigma == 0 and steps < FEW_STEPS:
        order = min(order, steps - step)
    return min(order, len(history))


def _remembered(history: Sequence[Answer], answer: Answer, order: int) -> list[Answer]:
    """Return the answers of the next polynomial, newest first; a node at infinity drops out."""
    return [answer, *(old for old in history if old.point.alpha > 0)][:order]


def dpm_multistep(model: Model, points: Sequence[Point], x: Row, *, order: int) -> Row:
    """DPM-Solver++ 2M and 3M (arXiv 2211.01095, algorithm 2 and appendix), as published.

    In the noise form these are the multistep DPM-Solver-2 and -3 of the authors' code. The
    third-order update weighs its second divided difference with half of what the exact integral of
    the quadratic does (there, in diffusers and in k-diffusion alike), so it is of second order with
    a small constant; ``deis3`` is the one without that slip.
    """
    history: list[Answer] = []
    for i, (start, end) in enumerate(pairwise(points)):
        here = model(x, start)
        history = _remembered(history, here, order)
        now = _order_now(order, history, points, i)
        if now == 1:
            x = first_order(model.form, here, end, x)
            continue
        a, b = transfer(model.form, start, end)
        z, amount = _signed_step(model, start, end)
        lambdas = [log_snr(answer.point) for answer in history]
        p = [answer.predict(model.form) for answer in history]
        h = log_snr(end) - lambdas[0]
        newer = h / (lambdas[0] - lambdas[1]) * (p[0] - p[1])
        if now == 2:
            x = a * x + b * (p[0] + 0.5 * newer)
            continue
        older = h / (lambdas[1] - lambdas[2]) * (p[1] - p[2])
        r0, r1 = (lambdas[0] - lambdas[1]) / h, (lambdas[1] - lambdas[2]) / h
        second = (newer - older) / (r0 + r1)
        first = newer + r0 * second
        x = a * x + b * p[0] + amount * (phi(2, z) * first + phi(3, z) * second)
    return x


Variable = Literal["log_rho", "rho", "t"]


def deis(
    model: Model,
    points: Sequence[Point],
    x: Row,
    *,
    order: int,
    variable: Variable = "log_rho",
    extrapolate_to_zero: bool = False,
) -> Row:
    """DEIS (arXiv 2204.13902, eq. 15): a polynomial in a variable of choice, integrated exactly.

    Args:
        model: the network; in the noise form eps is extrapolated, in the data form x_0.
        points: the grid.
        x: the start.
        order: 1 to 3 (the paper's tAB-DEIS r has order r + 1).
        variable: ``t`` is the paper's tAB, ``rho`` its rho-AB (rho = sigma / alpha, or its inverse
            in the data form), ``log_rho`` what diffusers has.
        extrapolate_to_zero: keep the full order in the step to the clean image, which a polynomial
            in rho can (noise form); with it, ``rho`` is k-diffusion's LMS.
    """
    history: list[Answer] = []
    for i, (start, end) in enumerate(pairwise(points)):
        here = model(x, start)
        history = _remembered(history, here, order)
        if extrapolate_to_zero and model.form == NOISE:
            now = len(history)
        else:
            now = _order_now(order, history, points, i)
        if now == 1:
            x = first_order(model.form, here, end, x)
            continue
        weights = _deis_weights(model, [answer.point for answer in history[:now]], end, variable)
        increment = sum(
            w * answer.predict(model.form) for w, answer in zip(weights, history[:now], strict=True)
        )
        shrink, _ = transfer(model.form, start, end)
        x = shrink * x + model.form.scale(end) * increment
    return x


def _deis_weights(
    model: Model, nodes: Sequence[Point], end: Point, variable: Variable
) -> np.ndarray:
    taus = [model.form.tau(point) for point in nodes]
    start, stop = taus[0], model.form.tau(end)
    if variable == "rho":
        return lagrange_integrals(taus, start, stop)
    logs = [math.log(tau) for tau in taus]
    if variable == "log_rho":
        return lagrange_integrals(logs, logs[0], math.log(stop), np.exp)
    # tAB: nodes in t. Quadrature in log rho, where t is smooth, of polynomials in t.
    sign = 1.0 if model.form == NOISE else -1.0
    times = [point.t for point in nodes]
    s, w = gauss_legendre(32)
    log_tau = logs[0] + 0.5 * (s + 1) * (math.log(stop) - logs[0])
    t = model.schedule.time(np.exp(sign * log_tau))
    measure = 0.5 * (math.log(stop) - logs[0]) * w * np.exp(log_tau)
    basis = [
        math.prod(((t - other) / (time - other) for other in times if other != time), start=1.0)
        for time in times
    ]
    return np.array([np.sum(measure * values) for values in basis])


def unipc(
    model: Model,
    points: Sequence[Point],
    x: Row,
    *,
    order: int,
    variant: Literal["bh1", "bh2"] = "bh2",
) -> Row:
    """UniPC (arXiv 2302.04867, algorithms 1 to 3): UniP's prediction, corrected by UniC at no cost.

    The corrector takes the output that the next prediction needs anyway, so a step costs one call.
    UniPC-p is of order p + 1, but for its start with lower orders. As in diffusers, the order falls
    towards a clean image, and where p is 2 (predictor) or 1 (corrector) the paper's simplified
    weight 1/2 is used, which is where ``bh1`` and ``bh2`` differ.
    """
    history: list[Answer] = []
    last_x, last_order = x, 0
    for i, (start, end) in enumerate(pairwise(points)):
        here = model(x, start)
        if i and spans_finite(points[i - 1], start):
            x = _unified(model, history[:last_order], start, last_x, variant, corrector=here)
        history = _remembered(history, here, order)
        remaining = len(points) - 1 - i if points[-1].sigma == 0 else order
        last_x, last_order = x, min(order, len(history), remaining)
        if not spans_finite(start, end):
            x = first_order(model.form, here, end, x)
        else:
            x = _unified(model, history[:last_order], end, x, variant)
    return x


def _unified(
    model: Model,
    history: Sequence[Answer],
    end: Point,
    x: Row,
    variant: str,
    corrector: Answer | None = None,
) -> Row:
    """Return UniP's step from the newest answer to ``end``, or UniC's with the answer there."""
    newest, *older = history
    p0, lambda0 = newest.predict(model.form), log_snr(newest.point)
    h = log_snr(end) - lambda0
    z, amount = _signed_step(model, newest.point, end)
    scale = z if variant == "bh1" else math.expm1(z)

    nodes = [*older, *([corrector] if corrector else [])]
    ratios = np.array([(log_snr(answer.point) - lambda0) / h for answer in nodes])
    differences = [
        (answer.predict(model.form) - p0) / r for answer, r in zip(nodes, ratios, strict=True)
    ]
    if len(nodes) == 1:
        rhos = np.array([0.5])
    else:
        powers = range(len(nodes))
        moments = [math.factorial(k + 1) * z * phi(k + 2, z) / scale for k in powers]
        rhos = np.linalg.solve(np.array([ratios**k for k in powers]), moments) if nodes else ratios
    a, b = transfer(model.form, newest.point, end)
    correction = sum(rho * d for rho, d in zip(rhos, differences, strict=True))
    return a * x + b * p0 + amount / z * scale * correction
