"""What exponential integration gives where the linear term is not what makes the ODE hard.

    python benchmarks/semilinear.py    # some minutes on one core

The ODE is dx/dt = f(t) x + N(x, t). Exponential integrators solve its first part exactly, which
pays as far as that part is the stiff one. So fields are made in which it is less and less of the
whole: data that are narrow, and guidance that is strong. Reparameterising does two things at once:
it takes the linear term out, and it changes the time. They are told apart by a third ODE, in x with
its linear term and in the form's time. All solve at the same noise levels, at those of two spacings
of which the better counts; errors are medians over samples. Rows go to semilinear.json as they
come, and are not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
from odes import GaussianMixture, Problem, Reference, largest_plan, plan_of
from stamp import stamp
from torch import Tensor

import adjointdpm as adp
from adjointdpm.baselines.torchdiffeq import rates
from adjointdpm.form import Form, Point
from adjointdpm.solvers import ODE_SOLVERS
from adjointdpm.solvers.model import Model
from adjointdpm.solvers.tape import Tape

WIDTHS = (1.0, 0.1, 0.02)
"""Standard deviations of the components; their means are about 1 apart."""
SCALES = (1.0, 3.0, 7.5)
ORDERS = {1: ("euler", "ddim"), 2: ("ab2", "dpmpp_2m"), 3: ("ab3", "deis3")}
"""By order: a method of Adams, for any ODE, and an exponential integrator of its own."""
FORMS = ("noise", "flow")
CALLS = (10, 20, 40)


@dataclass(frozen=True)
class InTimeOf(Form):
    """The plain ODE, ``dx/dtau = f x + N``, in the time of a form.

    Args:
        form: whose time it is.
        schedule: the process.
    """

    form: Form
    schedule: adp.Schedule
    name = "time alone"

    def tau(self, point: Point) -> float:
        """Return the form's time."""
        return self.form.tau(point)

    def scale(self, point: Point) -> float:
        """Return 1: the state is x."""
        return 1.0

    def slope(self, point: Point) -> tuple[float, float]:
        """Return the derivatives of alpha and sigma in the form's time."""
        alpha_rate, sigma_rate = rates(self.schedule, point.t)
        wronskian = sigma_rate * point.alpha - point.sigma * alpha_rate
        size = point.alpha if self.form.name == "noise" else point.alpha + point.sigma
        return alpha_rate * size**2 / wronskian, sigma_rate * size**2 / wronskian

    def point(self, schedule: adp.Schedule, tau: float) -> Point:
        """Return the point at the form's time ``tau``."""
        return self.form.point(schedule, tau)


@dataclass(frozen=True)
class GuidedMixture:
    """The exact prediction of v for a mixture, guided to a class that is two of its components.

    Args:
        mixture: the data.
        schedule: the process.
        scale: of guidance; 1 for all the data, without guidance.
    """

    mixture: GaussianMixture
    schedule: adp.Schedule
    scale: float

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the prediction for (batch, 3) inputs."""
        of_all = self._predict(self.mixture, x, t)
        if self.scale == 1:
            return of_all
        whole = self.mixture
        shares = whole.weights[:2] / whole.weights[:2].sum()
        chosen = GaussianMixture(whole.means[:2], whole.stds[:2], shares)
        return of_all + self.scale * (self._predict(chosen, x, t) - of_all)

    def _predict(self, data: GaussianMixture, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return data.predict(x, alpha, sigma, "v_prediction", None)


def mixture(width: float, scale: float) -> Problem:
    """Return the problem of a guided mixture, on the process of most pre-trained models."""
    schedule = adp.Schedule.vp_linear()
    data = GaussianMixture(stds=torch.full((3,), width, dtype=torch.float64))
    network = GuidedMixture(data, schedule, scale)
    noise = torch.randn(256, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return Problem(
        adp.Denoiser(network, schedule, "v_prediction"),
        ("linspace", "log_snr"),
        noise,
        {},
        lambda sample: (sample**2).sum() + sample.sin().sum(),
        Reference("dopri5", "flow", "log_snr", 134),
    )


def in_time_of(
    solver: str, form: str, schedule: adp.Schedule, spacing: str, prediction_type: str, steps: int
) -> adp.Plan:
    """Return the plan of the ODE with its linear term, in the time of a form."""
    points = adp.solvers.grid(schedule, steps, spacing, final_sigmas_type="sigma_min")
    tape = Tape(6 * len(points))
    chosen = InTimeOf(Form.named(form), schedule)
    drift = Model(tape, schedule, prediction_type).drift(chosen, *points)
    start = schedule.init_noise_sigma(points[0].t) * tape.noise
    sample = ODE_SOLVERS[solver](drift, [chosen.tau(point) for point in points], start)
    return tape.plan(sample, name=f"{solver}, x in tau", prediction_type=prediction_type)


def samplers(order: int) -> Iterator[tuple[str, str, str]]:
    """Yield solver, form, and whether the linear term is kept in its time."""
    adams, own = ORDERS[order]
    yield adams, "x", "kept"
    for form in FORMS:
        yield adams, form, "kept"
        yield adams, form, "taken out"
    yield own, "", "taken out"


def nonlinearity(problem: Problem, points: int = 100) -> float:
    """Return the Lipschitz constant of N over that of f x, both integrated over time.

    The states are those of DDIM with many steps; the constant is the largest singular value of the
    Jacobian of N at each sample, on average.
    """
    denoiser, schedule = problem.denoiser, problem.denoiser.schedule
    grid = adp.solvers.grid(schedule, points, "log_snr", final_sigmas_type="sigma_min")
    x = schedule.init_noise_sigma(grid[0].t) * problem.noise
    linear = rest = 0.0
    for start, end in pairwise(grid):
        alpha_rate, sigma_rate = rates(schedule, start.t)
        a, b = Form.named("noise").drift(denoiser.prediction_type, start)
        weight = sigma_rate - start.sigma * alpha_rate / start.alpha

        def remainder(x: Tensor, start: Point = start, a: float = a, b: float = b) -> Tensor:
            return a * x + b * denoiser(x, start.t)

        x = x.requires_grad_()
        noise = remainder(x)
        rows = [torch.autograd.grad(noise[:, i].sum(), x, retain_graph=True)[0] for i in range(3)]
        largest = torch.linalg.matrix_norm(torch.stack(rows, 1), 2).mean()
        step = start.t - end.t
        linear += step * abs(alpha_rate / start.alpha)
        rest += step * abs(weight) * float(largest)
        x = (end.alpha / start.alpha) * x.detach()
        x = x + (end.sigma - end.alpha * start.sigma / start.alpha) * noise.detach()
    return rest / linear


def apart(found: Tensor, reference: Tensor) -> float:
    """Return the median over samples of their relative distance.

    A few samples end in another component, far off, whatever the solver; the mean would be theirs.
    """
    distance = (found - reference).norm(dim=1) / reference.norm(dim=1)
    return float(f"{float(distance.median()):.3e}")


def measure(problem: Problem, calls: list[int]) -> dict[str, Any]:
    """Return how non-linear a field is, and the errors of all samplers at their better spacing."""
    how = problem.reference
    (sample, gradient), half = (
        problem.run(problem.plan(how.solver, how.form, how.spacing, steps))
        for steps in (how.steps, how.steps // 2)
    )
    found = []
    for order, budget in product(ORDERS, calls):
        for solver, form, term in samplers(order):
            errors = []
            for spacing in problem.spacings:
                plan = largest_plan(partial(planned, problem, solver, form, term, spacing), budget)
                assert plan is not None, f"{solver} takes more than {budget} calls"
                run = problem.run(plan)
                errors.append((apart(run[0], sample), apart(run[1], gradient), spacing))
            best = min(errors)
            found.append(
                {
                    "order": order, "solver": solver, "form": form, "linear_term": term,
                    "budget": budget, "sample_error": best[0], "gradient_error": best[1],
                    "spacing": best[2],
                }
            )  # fmt: skip
    return {
        "nonlinearity": nonlinearity(problem),
        "reference_with_half_the_steps": [apart(half[0], sample), apart(half[1], gradient)],
        "errors": found,
    }


def planned(
    problem: Problem, solver: str, form: str, term: str, spacing: str, steps: int
) -> adp.Plan:
    """Return the plan of one sampler."""
    schedule, prediction_type = problem.denoiser.schedule, problem.denoiser.prediction_type
    make = in_time_of if form in FORMS and term == "kept" else plan_of
    return make(solver, form, schedule, spacing, prediction_type, steps)


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, and write semilinear.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--calls", type=int, nargs="+", default=list(CALLS))
    parser.add_argument("--widths", nargs="+", type=float, default=list(WIDTHS))
    parser.add_argument("--scales", type=float, nargs="+", default=list(SCALES))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = options.output_dir / "semilinear.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.is_file() else []
    for width, scale in product(options.widths, options.scales):
        key = {"width": width, "guidance_scale": scale}
        if not any(key.items() <= row.items() for row in rows):
            rows.append({**key, **measure(mixture(width, scale), options.calls)})
            content = {"process": "VP linear", **stamp(), "rows": rows}
            path.write_text(json.dumps(content, indent=1) + "\n")
            print(f"standard deviation {width}, guidance {scale}: done", flush=True)


if __name__ == "__main__":
    main()
