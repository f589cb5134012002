"""The paper's method: the adjoint ODE, solved backwards in exponential-integration coordinates.

In a form of the sampling ODE with no linear term, ``du/dtau = g(u, tau, c)``, the adjoint
``a = dL/du`` obeys ``da/dtau = -a^T dg/du`` and the gradients of conditioning and weights are
``-a^T dg/dc`` integrated along it (AdjointDPM, arXiv 2307.10711, eq. 11-13). That is the gradient
of the ODE, not of the sampler's discrete steps: the two agree as steps grow small, at the order of
the solver. `Exact` costs the same and has no such error; this class is the method of the paper and
a measure of how far a discretised sampler is from its ODE.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..adaptive import attempts
from ..form import ANGLE, FLOW, Form, FormName, Point, SamplingOde
from ..per_step import refuse_gradient_by_step
from ..plan import Draws, execute
from ..solvers import ODE_SOLVERS, PAIRS, integrate
from .accuracy import OwnWeights, judge
from .interpolated import flow_weights
from .method import FiniteCheck, GradientMethod, Run
from .sweep import Sweep, Totals, Trajectory, attach, solution_points


@dataclass(frozen=True)
class ContinuousAdjoint(GradientMethod):
    """The augmented ODE of the paper, in memory that does not grow with the reverse steps.

    Args:
        solver: the ODE method of the reverse sweep, one of ``adjointdpm.solvers.ODE_SOLVERS``.
        num_steps: reverse steps; by default the sampler's own grid.
        trajectory: ``recorded`` interpolates the states of the forward run (to the sixth order);
            ``resolved`` stores none and solves the state backwards from the sample, as the paper
            does, with the error that this brings.
        form: the coordinates in which the ODE is solved: ``noise`` (the paper's), ``data``,
            ``flow`` or ``angle``; see `adjointdpm.solvers.Form`. ``auto`` is ``flow``, which is
            finite everywhere and has the least error on the grids of samplers (docs/gradients.md).
        rtol: makes the reverse steps adaptive: the relative tolerance of the adjoint (and of the
            state, where it is resolved), for ``heun``, ``bs3`` and ``dopri5``. The tolerance is
            one of the adjoint alone: the gradients of conditioning and weights are summed up with
            the accepted steps' weights, and not part of the ODE's state.
        atol: absolute tolerance, in units of the sample's adjoint in root mean square; by default
            as ``rtol``.
        max_steps: the most steps that an adaptive sweep tries.

    Raises:
        ValueError: an unknown word, no steps, a tolerance that is not positive, or two ways to
            choose the steps.
    """

    solver: str = "heun"
    num_steps: int | None = None
    trajectory: Literal["recorded", "resolved"] = "recorded"
    form: Literal["auto"] | FormName = "auto"
    rtol: float | None = None
    atol: float | None = None
    max_steps: int = 1000

    def __post_init__(self) -> None:
        if self.solver not in ODE_SOLVERS:
            raise ValueError(
                f"solver {self.solver!r} is not known; use one of {', '.join(ODE_SOLVERS)}"
            )
        if self.num_steps is not None and self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, not {self.num_steps}")
        if self.trajectory not in ("recorded", "resolved"):
            raise ValueError(f"trajectory must be recorded or resolved, not {self.trajectory!r}")
        if self.form not in ("auto", *get_args(FormName)):
            raise ValueError(
                f"form must be one of auto, {', '.join(get_args(FormName))}, not {self.form!r}"
            )
        if self.rtol is None and self.atol is not None:
            raise ValueError("atol goes with rtol: give both for adaptive steps, or none")
        if self.rtol is not None:
            self._check_adaptive(self.rtol, self.atol)

    def _check_adaptive(self, rtol: float, atol: float | None) -> None:
        if not rtol > 0 or (atol is not None and not atol > 0):
            raise ValueError(f"tolerances must be positive, not rtol={rtol}, atol={atol}")
        if self.num_steps is not None:
            raise ValueError(
                f"num_steps={self.num_steps} and rtol={rtol} both choose the steps; give one"
            )
        if self.solver not in PAIRS:
            raise ValueError(
                f"{self.solver} has no error estimate to choose its steps by; with rtol, use one "
                f"of {', '.join(PAIRS)}"
            )

    def sample(self, run: Run) -> Tensor:
        """Return the sample, with this method as its one autograd node."""
        refuse_gradient_by_step(run.cond, "ContinuousAdjoint")
        return attach(ContinuousAdjointSweep(run, self))


class ContinuousAdjointSweep(Sweep):
    """The forward run, and the adjoint ODE along its trajectory.

    The state of the ODE is (1, batch, ...), the adjoint, or (2, batch, ...) with the state first
    where the trajectory is solved again.
    """

    def __init__(self, run: Run, method: ContinuousAdjoint) -> None:
        super().__init__(run)
        self._method = method
        self._points = solution_points(run.plan, run.denoiser.schedule)
        self._form = _chosen_form(method, self._points)
        self._starts = frozenset(run.plan.step_starts or ())
        self._recorded: list[tuple[Tensor, Tensor]] = []
        self._sample: Tensor | None = None
        self._totals = Totals([])

    def call(self, k: int, x: Tensor) -> Tensor:
        """Run call k; store its input and output where it is a point of the trajectory."""
        output = self.network.run(k, x)
        if self._method.trajectory == "recorded" and k in self._starts:
            self._recorded.append((x, output))
        return output

    def forward(self) -> Tensor:
        """Return the sample and keep a copy, where the reverse sweep starts.

        The sample itself is the user's, who may change it in place; and it holds this sweep.
        """
        sample = super().forward()
        self._sample = sample.clone()
        return sample

    def backward(
        self, adjoint: Tensor, noise_needed: bool, draws_needed: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Solve the adjoint ODE from the sample to the noise."""
        assert self._sample is not None
        points, sample = self._reverse_points(), self._sample.detach()
        trajectory = None
        if self._method.trajectory == "recorded":
            prediction_type = self.run.denoiser.prediction_type
            trajectory = Trajectory(self._points, self._recorded, sample, prediction_type)
        state = torch.stack([adjoint] if trajectory is not None else [sample, adjoint])
        own = self._own_weights()
        solve = _Solve(self, Totals(self.network.targets), trajectory, points, own)
        if points[0].sigma == 0:
            state = solve.opening_step(state, points[0], points[1])
            points = points[1:]
        if len(points) > 1:
            run = solve.fixed if self._method.rtol is None else solve.adaptive
            state = run(state, points, self._form)
        solve.observe(points[-1], state)
        missed = None
        if trajectory is None:
            start = self.run.noise.detach() * float(self.run.plan.table[0, 0])
            missed = (state[0] - start).norm() / start.norm()
            if self.run.observer is not None:
                self.run.observer.on_round_trip(float(missed))
        if own is not None:
            ends = (self._points[0], state[-1]), (self._points[-1], adjoint)
            estimate = own.estimate(*(FLOW.scale(point) * a for point, a in ends))
            judge(
                self.run,
                estimate if missed is None else estimate + missed,
                f"ContinuousAdjoint took {len(self._reverse_points()) - 1} reverse steps for "
                f"{self.run.plan.num_calls} network calls, which are",
            )
        noise = state[-1] * float(self.run.plan.table[0, 0])
        self._totals = solve.totals
        return noise if noise_needed else None, None

    def gradients(self) -> Sequence[Tensor | None]:
        """Return the weighted sums of the products."""
        totals, self._totals = self._totals, Totals([])
        return totals.values

    def _own_weights(self) -> OwnWeights | None:
        """Return what estimates the error; nothing where a tolerance chooses the steps."""
        run = self.run
        if self._method.rtol is not None or not (run.check_finite or run.observer is not None):
            return None
        schedule = run.denoiser.schedule
        taus = [FLOW.tau(point) for point in Point.all_at(schedule, run.plan.timesteps)]
        return OwnWeights(taus, flow_weights(run.plan, schedule).tolist())

    def _reverse_points(self) -> list[Point]:
        """Return the points of the reverse sweep, from the sample's end to the noise's."""
        points, num_steps = self._points[::-1], self._method.num_steps
        if num_steps is None:
            return points
        # As dense as the sampler's own grid is, whatever the number of steps.
        opening = [points[0]] if points[0].sigma == 0 and num_steps > 1 else []
        at = np.linspace(len(opening), len(points) - 1, num_steps + 1 - len(opening))
        angles = [math.atan2(point.sigma, point.alpha) for point in points]
        schedule = self.run.denoiser.schedule
        between = [
            points[round(i)]
            if abs(i - round(i)) < 1e-9
            else ANGLE.point(schedule, float(np.interp(i, range(len(points)), angles)))
            for i in at.tolist()
        ]
        return opening + between


class _Solve:
    """One solution of the adjoint ODE.

    Args:
        sweep: whose network, method and run it is.
        totals: gradients of conditioning and weights.
        trajectory: where the state comes from; None to solve it too.
        points: of the reverse sweep, whose network times are known exactly.
        own: takes note of the slopes at the steps, in the flow form.
    """

    def __init__(
        self,
        sweep: ContinuousAdjointSweep,
        totals: Totals,
        trajectory: Trajectory | None,
        points: Sequence[Point],
        own: OwnWeights | None,
    ) -> None:
        self.totals, self._own = totals, own
        self._network, self._run, self._method = sweep.network, sweep.run, sweep._method
        self._trajectory, self._points = trajectory, points

    def observe(self, point: Point, state: Tensor) -> None:
        """Tell the observer of a state in units of x."""
        if self._run.observer is not None:
            x = state[0] if self._trajectory is None else self._trajectory(point)
            self._run.observer.on_step(point, x, state[-1])

    def slope(self, form: Form, point: Point, state: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Return d(state)/dtau in a form, and the products for conditioning and weights."""
        scale, a = form.scale(point), state[-1]
        x = scale * state[0] if self._trajectory is None else self._trajectory(point)
        x_weight, output_weight = self._ode(form).weights(point)
        x, (output,) = self._network.rerun_with_graph(0, x, point.t)
        pulled = self._network.pull_back(x, [output], [output_weight * a])
        gradients = self._network.gradients()
        slopes = [(-scale * x_weight) * a if pulled is None else -scale * (x_weight * a + pulled)]
        if self._trajectory is None:
            slopes = [x_weight * x.detach() + output_weight * output.detach(), *slopes]
        return torch.stack(slopes), gradients

    def opening_step(self, state: Tensor, start: Point, end: Point) -> Tensor:
        """Step away from the clean image, where no network is asked: the transpose of DDIM's step.

        In and out in units of x.
        """
        h = FLOW.tau(end) - FLOW.tau(start)
        self.observe(start, state)
        u = _to_form(FLOW, start, state)
        slope, gradients = self.slope(FLOW, end, u)
        self._note(FLOW, end, u[-1], slope[-1])
        self.totals.add(gradients, weight=-h)
        return _from_form(FLOW, end, u + h * slope)

    def fixed(self, state: Tensor, points: Sequence[Point], form: Form) -> Tensor:
        """Step through the points; in and out in units of x."""
        plan = integrate(self._method.solver, [form.tau(point) for point in points])
        check = FiniteCheck("the adjoint", plan.timesteps, self._run.check_finite)
        drift, starts = self._drift(form), frozenset(plan.step_starts or ())

        def call(k: int, u: Tensor) -> Tensor:
            tau = float(plan.timesteps[k])
            if k in starts:
                self._observe_form(form, tau, u)
            slope, gradients = drift(u, tau)
            if k in starts:
                self._note(form, self._ode(form).point(tau), u[-1], slope[-1])
            self.totals.add(gradients, weight=-float(plan.sample[1 + k]))
            check.record(k, slope[-1])
            return slope

        u = _to_form(form, points[0], state)
        u = execute(plan.program, call, u, Draws(u))
        self._network.judge_later(check)
        return _from_form(form, points[-1], u)

    def adaptive(self, state: Tensor, points: Sequence[Point], form: Form) -> Tensor:
        """Step from the first to the last point as the tolerances ask; in and out in units of x."""
        self._network.judge_now()
        method, pair = self._method, PAIRS[self._method.solver]
        assert method.rtol is not None
        atol = method.rtol if method.atol is None else method.atol
        size = state[-1].square().mean().sqrt().clamp_min(torch.finfo(state.dtype).tiny)
        units = torch.ones_like(state)
        units[-1] = size
        u = _to_form(form, points[0], state) / units
        drift, steps = self._drift(form), _StepTotals(self.totals, pair.tableau.b)

        def normalised(u: Tensor, tau: float, **_: bool) -> Tensor:
            slope, gradients = drift(u * units, tau)
            steps.add(gradients)
            return slope / units

        start, following, end = form.tau(points[0]), form.tau(points[1]), form.tau(points[-1])
        self._observe_form(form, start, u * units)
        for attempt in attempts(
            pair, normalised, u, start, end, method.rtol, atol, method.max_steps,
            h=following - start, before=steps.begin,
        ):  # fmt: skip
            if attempt.accepted:
                steps.accept()
                u = attempt.u
                if attempt.end != end:
                    self._observe_form(form, attempt.end, u * units)
        return _from_form(form, points[-1], u * units)

    def _note(self, form: Form, point: Point, adjoint: Tensor, slope: Tensor) -> None:
        """Take note of a slope, as it is in the flow form."""
        if self._own is None:
            return
        if form != FLOW:
            (a, b), (flow_a, flow_b) = (self._ode(each).weights(point) for each in (form, FLOW))
            ratio = FLOW.scale(point) / form.scale(point)
            pulled = -slope / form.scale(point) - a * adjoint
            slope = -FLOW.scale(point) * ratio * (flow_a * adjoint + flow_b / b * pulled)
            adjoint = ratio * adjoint
        self._own.add(FLOW.tau(point), slope, adjoint)

    def _ode(self, form: Form) -> SamplingOde:
        denoiser = self._run.denoiser
        return SamplingOde(form, denoiser.schedule, denoiser.prediction_type, self._points)

    def _drift(self, form: Form) -> Callable[[Tensor, float], tuple[Tensor, list[Tensor | None]]]:
        ode = self._ode(form)
        return lambda u, tau: self.slope(form, ode.point(tau), u)

    def _observe_form(self, form: Form, tau: float, u: Tensor) -> None:
        if self._run.observer is not None:
            point = self._ode(form).point(tau)
            self.observe(point, _from_form(form, point, u))


class _StepTotals:
    """Gradients of a step that may yet be rejected.

    The products of its first stage are known before its length is, and serve again after a
    rejection; those of the others are added up as they come, with the length that is tried.

    Args:
        totals: of the accepted steps.
        weights: of the stages, for a step of length 1.
    """

    def __init__(self, totals: Totals, weights: Sequence[float]) -> None:
        self._totals, self._weights = totals, weights
        self._latest: Sequence[Tensor | None] = []
        self._first: Sequence[Tensor | None] | None = None
        self._step = Totals([])
        self._pending: list[float] = []

    def begin(self, h: float) -> None:
        """Start a step of length ``h``."""
        if self._first is None:
            self._first = self._latest
        self._step = Totals([])
        self._step.values = [None] * len(self._first)
        first, *self._pending = (-h * weight for weight in self._weights)
        self._step.add(self._first, weight=first)

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Take the products of the next stage, or of the slope at the end of the step."""
        self._latest = gradients
        if self._pending:
            self._step.add(gradients, weight=self._pending.pop(0))

    def accept(self) -> None:
        """Add the step to the totals; the slope asked for last, or next, is that of its end."""
        self._totals.add(self._step.values)
        self._first, self._step = None, Totals([])


def _to_form(form: Form, point: Point, state: Tensor) -> Tensor:
    """Return u and its adjoint for x and that of x: ``u = x / scale``, ``a_u = scale a_x``."""
    scales = [1 / form.scale(point), form.scale(point)][-len(state) :]
    return torch.stack([s * part for s, part in zip(scales, state, strict=True)])


def _from_form(form: Form, point: Point, state: Tensor) -> Tensor:
    scales = [form.scale(point), 1 / form.scale(point)][-len(state) :]
    return torch.stack([s * part for s, part in zip(scales, state, strict=True)])


def _chosen_form(method: ContinuousAdjoint, points: Sequence[Point]) -> Form:
    """Return the form, finite at both ends: the clean image is left by a step of its own."""
    form = FLOW if method.form == "auto" else Form.named(method.form)
    ends = points[0], points[-2] if points[-1].sigma == 0 else points[-1]
    if not all(math.isfinite(form.tau(point)) and form.scale(point) for point in ends):
        raise ValueError(
            f"the {form.name} form is not finite at both ends of this sampler: the start holds "
            f"(alpha, sigma) = ({ends[0].alpha:.3g}, {ends[0].sigma:.3g}). Use form='auto', "
            "flow or angle, which are finite everywhere"
        )
    return form
