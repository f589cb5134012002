"""The partitioned Runge-Kutta pair: the exact gradient of a one-step method from its step starts.

For an explicit Runge-Kutta method with weights ``b_i`` and matrix ``a_ij``, integrate the adjoint
backwards with the weights ``b_i`` and the matrix ``b_j - b_j a_ji / b_i``. The pair conserves the
product of adjoint and tangent, as symplectic methods do, so the result is the gradient of the
discrete steps themselves and not of the ODE (Sanz-Serna, "Symplectic Runge-Kutta schemes for
adjoint equations, automatic differentiation, optimal control, and more", SIAM Review 58(1), 2016;
Matsubara et al., arXiv 2102.09750; SAG, arXiv 2312.12030, for diffusion models).

In terms of the adjoints ``l_i`` of the slopes, which are h b_i times the stages of the adjoint, the
pair reads ``l_i = h b_i p' + h sum_j a_ji m_j`` and ``p = p' + sum_i m_i``, where ``m_i`` is the
vector-Jacobian product of ``l_i``. Nothing is divided by ``b_i``, so methods with a zero weight
(midpoint, Dormand-Prince), which Sanz-Serna treats apart, need no case of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..plan import Plan, Program, Term, Value
from ..solvers import CALLS_PER_STEP
from .method import FiniteCheck, GradientMethod, Run
from .sweep import Step, StepTranspose, Sweep, attach


@dataclass(frozen=True)
class Symplectic(GradientMethod):
    """Exact for one-step plans, with the states at step starts and one call's activations.

    It equals `Exact` to rounding, stores one latent a step where `Exact` stores one a network call,
    and pays for it with s - 1 further network calls in a step of s stages. Any plan of one-step
    methods will do, read from a diffusers scheduler too: the steps are found in the table. Six
    calls or fewer that cannot be cut count as one step.

    Raises:
        ValueError: when sampling, if the plan is not made of one-step methods.
    """

    def sample(self, run: Run) -> Tensor:
        """Return the sample, with this method as its one autograd node."""
        return attach(SymplecticSweep(run))


EXACT = "Use Exact(), which differentiates every plan"


class SymplecticSweep(Sweep):
    """The forward pass that stores the starts of steps, and the pair's sweep back over them."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._steps = one_step_parts(run.plan)
        starts = {step.first for step in self._steps}
        self._to_store = {
            k
            for k, row in enumerate(run.plan.program.rows)
            if k in starts or any(value.kind == "draw" for value, _ in row)
        }
        self._stored: dict[int, Tensor] = {}

    def call(self, k: int, x: Tensor) -> Tensor:
        """Run call k; store its input where a step starts, or where noise was drawn."""
        if k in self._to_store:
            self._stored[k] = x
        return self.network.run(k, x)

    def backward(
        self, adjoint: Tensor, noise_needed: bool, draws_needed: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Run the adjoint half of the pair, step by step."""
        plan, noise = self.run.plan, self.run.noise.detach()
        check = FiniteCheck("the adjoint at the input", plan.timesteps, self.run.check_finite)
        transposed = StepTranspose(self.network, noise.dtype, check, self.tell)
        draws = [torch.zeros_like(noise)] * plan.num_draws
        state_adjoint: Tensor | None = adjoint
        for step in reversed(self._steps):
            if state_adjoint is None:
                break
            _, state_adjoint, drawn = transposed(
                step,
                self._stored[step.first] if step.first else noise,
                state_adjoint,
                stored=self._stored,
                input_needed=noise_needed or draws_needed,
            )
            # No draw is read by two steps.
            draws = [old if new is None else new for old, new in zip(draws, drawn, strict=True)]
        self.network.judge_later(check)
        noise_adjoint = state_adjoint if noise_needed else None
        return noise_adjoint, torch.stack(draws) if draws_needed else None


def one_step_parts(plan: Plan, who: str = "Symplectic", instead: str = EXACT) -> list[Step]:
    """Cut a plan where the input of a network call is all that later rows know of the past.

    Args:
        plan: the table of a one-step method.
        who: needs it, for messages.
        instead: what to do about another plan, for messages.

    Raises:
        ValueError: a part has more calls than a step has: the method remembers earlier steps.

    >>> from adjointdpm import Schedule, solvers
    >>> plan = solvers.build("heun", Schedule.vp_linear(), 3)
    >>> [(step.first, step.program.num_calls) for step in one_step_parts(plan)]
    [(0, 2), (2, 2), (4, 1)]
    """
    program, calls = plan.program, plan.num_calls
    first_read: dict[Value, int] = {}
    for k, row in enumerate(program.rows):
        for value, _ in row:
            first_read.setdefault(value, k)

    def known_from(value: Value) -> int:
        """Return the last call at which a step that reads this value can start."""
        if value.kind == "draw":
            return first_read[value] - 1
        return -1 if value.kind == "noise" else value.number

    bounds, known = [calls], calls
    for k in range(calls - 1, -1, -1):
        known = min(known, *(known_from(value) for value, _ in program.rows[k + 1]))
        if k == 0 or known >= k:
            bounds.append(k)
    bounds.reverse()
    for start, end in pairwise(bounds):
        steps_within = sum(start <= k < end for k in plan.step_starts or ())
        if end - start > CALLS_PER_STEP and steps_within > 1:
            raise ValueError(
                f"{who} needs a one-step (Runge-Kutta) plan, but {plan.name} uses outputs of "
                f"earlier steps: network calls {start} to {end - 1} cannot be cut into steps. "
                f"{instead}, or a plan of ddim, heun, midpoint, ralston, bs3, rk4 or dopri5"
            )
    return [Step(start, _part(program, start, end)) for start, end in pairwise(bounds)]


def _part(program: Program, start: int, end: int) -> Program:
    """Return the rows after ``start`` up to ``end``, as a program from the state at ``start``."""
    first = program.rows[0] if start == 0 else (Term(Value("noise"), 1.0),)

    def moved(value: Value) -> Value:
        if value.kind in ("input", "output"):
            return Value(value.kind, value.number - start)
        return value

    rows = [
        tuple(Term(moved(value), weight) for value, weight in row)
        for row in program.rows[start + 1 : end + 1]
    ]
    return Program((first, *rows), program.num_draws)
