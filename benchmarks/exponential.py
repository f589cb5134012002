"""What exponential integration is worth: errors of sample and gradient over network calls.

    python benchmarks/exponential.py                       # mixtures with exact scores, minutes
    python benchmarks/exponential.py --networks embedded --calls 5 10 20    # ten minutes

Each solver runs on the plain ODE in x and the network's time, and on forms without its linear term
(docs/architecture.md), on the same times: two spacings for each process, of which tables and plots
show the one with the smaller error of the sample. The
reference is the solution of the ODE by many steps; the gradient is the exact one of the discrete
sampler, `Exact`, and its error is how far that is from the gradient of the solution. All runs end
at the last noise level that the process knows. Results go to exponential.json and exponential.png
in the output directory.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import adjointdpm as adp
from adjointdpm.baselines.torchdiffeq import _StateForm
from adjointdpm.solvers import ODE_SOLVERS
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
CALLS_A_STEP = {"heun": 2, "rk4": 4}
SAMPLERS = (
    *((solver, form) for solver in ("euler", "heun", "rk4", "ab2", "ab4")
      for form in ("x", "noise", "flow")),
    ("dpmpp_2m", ""), ("deis3", ""), ("unipc_bh2_2", ""),
)  # fmt: skip
"""Solvers and forms; ``x`` is the plain ODE."""
REFERENCE = ("rk4", "flow")
CALLS = (5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Problem:
    """A network on a process.

    Args:
        denoiser: the network.
        spacings: of the times.
        noise: of which the gradient is taken.
        cond: conditioning.
        objective: of the samples.
        many: steps of the reference.
    """

    denoiser: adp.Denoiser
    spacings: tuple[str, ...]
    noise: Tensor
    cond: dict[str, Any]
    objective: Callable[[Tensor], Tensor]
    many: int

    def run(self, plan: adp.Plan) -> tuple[Tensor, Tensor]:
        """Return sample and gradient."""
        noise = self.noise.clone().requires_grad_()
        sample = adp.Sampler(self.denoiser, plan)(noise, **self.cond)
        (gradient,) = torch.autograd.grad(self.objective(sample), noise)
        return sample.detach(), gradient


def plan_of(
    solver: str, form: str, schedule: adp.Schedule, steps: int, spacing: str, prediction_type: str
) -> adp.Plan:
    """Return a plan, of the plain ODE too; raises ValueError where a process has no such form."""
    if form != "x":
        return adp.solvers.build(
            solver, schedule, steps, spacing, prediction_type,
            form=form or None, final_sigmas_type="sigma_min",
        )  # fmt: skip
    points = adp.solvers.grid(schedule, steps, spacing, final_sigmas_type="sigma_min")
    tape = Tape(6 * len(points))
    drift = Model(tape, schedule, prediction_type).drift(_StateForm(schedule), *points)
    start = schedule.init_noise_sigma(points[0].t) * tape.noise
    sample = ODE_SOLVERS[solver](drift, [point.t for point in points], start)
    return tape.plan(sample, name=f"{solver} in x", prediction_type=prediction_type)


def on_mixture(
    mixture: GaussianMixture, schedule: adp.Schedule, spacings: tuple[str, ...]
) -> Problem:
    generator = torch.Generator().manual_seed(3)
    return Problem(
        adp.Denoiser(mixture.network(schedule, "v_prediction"), schedule, "v_prediction"),
        spacings,
        torch.randn(64, 3, dtype=torch.float64, generator=generator),
        {},
        lambda sample: (sample**2).sum() + sample.sin().sum(),
        many=400,
    )


def embedded() -> Problem:
    """The embedded model with guidance 3; the objective is a random direction in its latents."""
    from adjointdpm.assets import load_default

    pipe = load_default().pipeline
    sampler, _ = adp.from_pipeline(pipe, 2, 3.0)
    generator = torch.Generator().manual_seed(0)
    noise, direction = (torch.randn(2, 4, 16, 16, generator=generator) for _ in range(2))
    cond = adp.encode_prompt(pipe, ["apple, style noto", "cat face, style 3d"])
    cond = {name: value.detach() for name, value in cond.items()}
    return Problem(
        sampler.denoiser,
        ("linspace", "log_snr"),
        noise,
        cond,
        lambda s: (s * direction).sum(),
        many=50,
    )


def apart(found: Tensor, reference: Tensor) -> float:
    return float(f"{float((found - reference).norm() / reference.norm()):.3e}")


def measure(problem: Problem, calls: list[int]) -> Iterator[dict[str, Any]]:
    """Yield one row for each sampler and number of calls."""

    def plan(solver: str, form: str, steps: int, spacing: str) -> adp.Plan:
        denoiser = problem.denoiser
        prediction_type = denoiser.prediction_type
        return plan_of(solver, form, denoiser.schedule, steps, spacing, prediction_type)

    sample, gradient = problem.run(plan(*REFERENCE, problem.many, problem.spacings[0]))
    # With half its steps the reference tells how far it can be trusted.
    half = REFERENCE, problem.spacings[0], CALLS_A_STEP["rk4"] * problem.many // 2
    for (solver, form), spacing, count in (*product(SAMPLERS, problem.spacings, calls), half):
        steps = count // CALLS_A_STEP.get(solver, 1)
        if steps < 1:
            continue
        try:
            chosen = plan(solver, form, steps, spacing)
            found = problem.run(chosen)
        except (ValueError, ZeroDivisionError):
            continue  # infinite at the start of rectified flow
        except FloatingPointError:
            found = torch.full_like(sample, torch.inf), torch.full_like(gradient, torch.inf)
        yield {
            "solver": solver, "form": form, "spacing": spacing, "calls": chosen.num_calls,
            "budget": count, "sample_error": apart(found[0], sample),
            "gradient_error": apart(found[1], gradient),
        }  # fmt: skip


def best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the better spacing."""
    kept: dict[Any, dict[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("process", "network", "solver", "form", "budget"))
        if key not in kept or row["sample_error"] < kept[key]["sample_error"]:
            kept[key] = row
    return list(kept.values())


def problems(networks: list[str]) -> Iterator[tuple[str, str, Problem]]:
    if "mixtures" in networks:
        for process, (schedule, spacings) in PROCESSES.items():
            for name, mixture in MIXTURES.items():
                yield process, name, on_mixture(mixture, schedule, spacings)
    if "embedded" in networks:
        yield "VP scaled linear", "embedded model", embedded()


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [row for row in rows if row["network"] != "smooth mixture"]
    columns = list(dict.fromkeys((row["network"], row["process"]) for row in shown))
    figure = Figure(figsize=(3.6 * len(columns), 7), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(columns), sharex=True, sharey="row", squeeze=False)
    styles = {"x": "--", "noise": "-", "flow": ":", "": "-."}
    colours = {s: f"C{i}" for i, s in enumerate(dict.fromkeys(solver for solver, _ in SAMPLERS))}
    for line, key in zip(grid, ("sample_error", "gradient_error"), strict=True):
        for ax, column in zip(line, columns, strict=True):
            for solver, form in SAMPLERS:
                points = [
                    (row["calls"], row[key]) for row in shown
                    if (row["network"], row["process"]) == column
                    and (row["solver"], row["form"]) == (solver, form)
                ]  # fmt: skip
                if points:
                    label = f"{solver}, {form}" if form else solver
                    ax.plot(*zip(*points, strict=True), styles[form], color=colours[solver],
                            marker="o", markersize=3, label=label)  # fmt: skip
            ax.set(xscale="log", yscale="log", ylim=(1e-6, 10))
            ax.grid(alpha=0.3)
        line[0].set_ylabel(f"relative error of the {key.removesuffix('_error')}")
    for ax, (network, process) in zip(grid[0], columns, strict=True):
        ax.set_title(f"{network}\n{process}", fontsize=9)
    for ax in grid[1]:
        ax.set_xlabel("network calls")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--calls", type=int, nargs="+", default=list(CALLS))
    parser.add_argument(
        "--networks", nargs="+", choices=("mixtures", "embedded"), default=["mixtures"]
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = options.output_dir / "exponential.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    for process, network, problem in problems(options.networks):
        rows = [row for row in rows if (row["process"], row["network"]) != (process, network)]
        for row in measure(problem, options.calls):
            rows.append({"process": process, "network": network, **row})
        print(f"{process}, {network}: done", flush=True)
    content = {
        "machine": f"{platform.machine()} CPU",
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
    }
    options.output_dir.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    head = json.dumps(content, indent=1).removesuffix("\n}")
    path.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n')
    plot(best(rows), options.output_dir / "exponential.png")


if __name__ == "__main__":
    main()
