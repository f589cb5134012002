"""ODEs whose solution is known, and the plans of all solvers on them, on the plain ODE too."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import adjointdpm as adp
from adjointdpm.baselines.torchdiffeq import _StateForm
from adjointdpm.gradients import Backprop, Exact
from adjointdpm.solvers import CALLS_PER_STEP, ODE_SOLVERS
from adjointdpm.solvers.model import Model
from adjointdpm.solvers.tape import Tape

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from mixtures import GaussianMixture

PROCESSES = {
    "VP linear": (adp.Schedule.vp_linear(), ("linspace", "log_snr")),
    "VP cosine": (adp.Schedule.vp_cosine(), ("linspace", "quadratic")),
    "EDM": (adp.Schedule.edm(), ("karras", "log_snr")),
    "rectified flow": (adp.Schedule.rectified_flow(), ("linspace", "quadratic")),
}
MIXTURES = {
    "smooth mixture": GaussianMixture(),
    "sharp mixture": GaussianMixture(stds=torch.tensor([0.1, 0.05, 0.15], dtype=torch.float64)),
}


@dataclass(frozen=True)
class Reference:
    """How the solution of an ODE is found."""

    solver: str
    form: str
    spacing: str
    steps: int


@dataclass(frozen=True)
class Problem:
    """A network on a process.

    Args:
        denoiser: the network.
        spacings: of the times.
        noise: of which the gradient is taken.
        cond: conditioning.
        objective: of the samples.
        reference: what errors are counted from.
        kept_calls: the most network calls whose graphs fit in memory.
    """

    denoiser: adp.Denoiser
    spacings: tuple[str, ...]
    noise: Tensor
    cond: dict[str, Any]
    objective: Callable[[Tensor], Tensor]
    reference: Reference
    kept_calls: float = math.inf

    def run(self, plan: adp.Plan) -> tuple[Tensor, Tensor]:
        """Return sample and gradient."""
        noise = self.noise.clone().requires_grad_()
        method = Backprop() if plan.num_calls <= self.kept_calls else Exact()
        sample = adp.Sampler(self.denoiser, plan, gradient=method)(noise, **self.cond)
        (gradient,) = torch.autograd.grad(self.objective(sample), noise)
        return sample.detach(), gradient

    def plan(self, solver: str, form: str, spacing: str, steps: int) -> adp.Plan:
        """Return the plan of a solver in a form."""
        schedule, prediction_type = self.denoiser.schedule, self.denoiser.prediction_type
        return plan_of(solver, form, schedule, spacing, prediction_type, steps)


def plan_of(
    solver: str, form: str, schedule: adp.Schedule, spacing: str, prediction_type: str, steps: int
) -> adp.Plan:
    """Return a plan, of the plain ODE too; raises ValueError where a process has no such form."""
    if form != "x":
        return adp.solvers.build(
            solver, schedule, steps, spacing, prediction_type,
            form=form or None, final_sigmas_type="sigma_min",
        )  # fmt: skip
    points = adp.solvers.grid(schedule, steps, spacing, final_sigmas_type="sigma_min")
    tape = Tape(CALLS_PER_STEP * len(points))
    drift = Model(tape, schedule, prediction_type).drift(_StateForm(schedule), *points)
    start = schedule.init_noise_sigma(points[0].t) * tape.noise
    sample = ODE_SOLVERS[solver](drift, [point.t for point in points], start)
    return tape.plan(sample, name=f"{solver} in x", prediction_type=prediction_type)


def largest_plan(make: Callable[[int], adp.Plan], budget: int) -> adp.Plan | None:
    """Return the plan with the most steps within some network calls.

    None where one step needs more, or the form is infinite at the start.
    """
    steps = budget
    while steps > 0:
        try:
            plan = make(steps)
        except (ValueError, ZeroDivisionError):
            return None
        if plan.num_calls <= budget:
            return plan
        # Steps at the start take no fewer calls than later ones, so that this goes not too far.
        steps -= max(1, (plan.num_calls - budget) // math.ceil(plan.num_calls / steps))
    return None
