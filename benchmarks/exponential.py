"""What exponential integration is worth: errors of sample and gradient over network calls.

    python benchmarks/exponential.py                        # mixtures with exact scores, minutes
    python benchmarks/exponential.py --networks embedded    # a quarter of an hour

Each solver runs on the plain ODE in x and the network's time, and on forms without its linear term
(docs/architecture.md), on the same times: two spacings for each process, of which tables and plots
show the one with the smaller error of the sample. The reference is the solution of the ODE by many
steps; the gradient is the exact one of the discrete sampler, and its error is how far that is from
the gradient of the solution. All runs end at the last noise level that the process knows. Results
go to exponential.json and exponential.png in the output directory; `--resume` measures only what
is not there yet.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from exponential_plot import plot
from odes import PROCESSES, SHARP, SMOOTH, GaussianMixture, Problem, Reference, largest_plan
from stamp import write_stamped
from tables.exponential import CALLS
from torch import Tensor

import adjointdpm as adp
from adjointdpm.solvers import DATA_SOLVERS, NOISE_SOLVERS, ODE_SOLVERS

MIXTURES = {"smooth mixture": SMOOTH, "sharp mixture": SHARP}
FORMS = ("x", "noise", "flow")
"""Of ODE methods; ``x`` is the plain ODE."""
TWINS = {"ab1", "am2", "deis1", "dpmpp_1s"}
"""``am2`` is ``heun``, ``ab1`` is ``euler``, and so are the others without the linear term."""
SAMPLERS = (
    *product([name for name in ODE_SOLVERS if name not in TWINS], FORMS),
    *((name, "") for name in (*NOISE_SOLVERS, *DATA_SOLVERS) if name not in TWINS),
)
"""Solvers with their forms; exponential integrators have one of their own."""
ON_A_NETWORK = (
    *((name, "") for name in ("dpmpp_2m", "deis3", "unipc_bh2_2", "unipc_bh2_3", "dpmpp_3m")),
    *product(("euler", "ab2", "rk4", "heun", "ab3"), FORMS),
)
"""Those that run on the embedded model, where a call takes a hundred times as long."""
Samplers = tuple[tuple[str, str], ...]


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
        Reference("dopri5", "flow", spacings[-1], 267),
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
        Reference("ab4", "flow", "log_snr", 991),
        kept_calls=100,
    )


def apart(found: Tensor, reference: Tensor) -> float:
    return float(f"{float((found - reference).norm() / reference.norm()):.3e}")


def reference(problem: Problem) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Return how good the reference is, its sample and its gradient.

    How far the same method with half its steps is from it bounds its own error.
    """
    whole, half = problem.solution()
    sample, gradient = problem.run(whole)
    coarse_sample, coarse_gradient = problem.run(half)
    row = {
        **asdict(problem.reference), "calls": whole.num_calls, "half_the_calls": half.num_calls,
        "sample_error": apart(coarse_sample, sample),
        "gradient_error": apart(coarse_gradient, gradient),
    }  # fmt: skip
    return row, sample, gradient


def measure(problem: Problem, plan: adp.Plan, sample: Tensor, gradient: Tensor) -> dict[str, float]:
    """Return the errors of one plan."""
    try:
        found = problem.run(plan)
    except FloatingPointError:
        return {"sample_error": math.inf, "gradient_error": math.inf}
    return {
        "sample_error": apart(found[0], sample), "gradient_error": apart(found[1], gradient),
    }  # fmt: skip


def problems(networks: list[str]) -> Iterator[tuple[dict[str, str], Problem, Samplers]]:
    if "mixtures" in networks:
        for process, (schedule, spacings) in PROCESSES.items():
            for name, mixture in MIXTURES.items():
                key = {"process": process, "network": name}
                yield key, on_mixture(mixture, schedule, spacings), SAMPLERS
    if "embedded" in networks:
        yield {"process": "VP scaled linear", "network": "embedded model"}, embedded(), ON_A_NETWORK


@dataclass
class Results:
    """What exponential.json holds.

    Args:
        path: the file.
        references: a row for each problem.
        rows: a row for each problem and sampler.
    """

    path: Path
    references: list[dict[str, Any]]
    rows: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Results:
        """Return what a file holds, which may not be there."""
        known = json.loads(path.read_text()) if path.is_file() else {}
        return cls(path, known.get("references", []), known.get("rows", []))

    def drop(self, problem: dict[str, str]) -> None:
        """Forget what is known of a problem."""
        self.references = [row for row in self.references if not problem.items() <= row.items()]
        self.rows = [row for row in self.rows if not problem.items() <= row.items()]

    def write(self) -> None:
        """Write the file."""
        write_stamped(self.path, {}, references=self.references, rows=self.rows)


def renew(
    results: Results, key: dict[str, str], problem: Problem, samplers: Samplers,
    calls: list[int], *, resume: bool,
) -> None:  # fmt: skip
    """Measure a problem, and write its rows as they come."""
    how, sample, gradient = reference(problem)
    if not resume or {**key, **how} not in results.references:
        results.drop(key)
        results.references.append({**key, **how})
    known = [row for row in results.rows if key.items() <= row.items()]
    for (solver, form), spacing in product(samplers, problem.spacings):
        for budget in calls:
            row = {**key, "solver": solver, "form": form, "spacing": spacing, "budget": budget}
            if any(row.items() <= old.items() for old in known):
                continue
            make = partial(problem.plan, solver, form, spacing)
            if (plan := largest_plan(make, budget)) is not None:
                errors = measure(problem, plan, sample, gradient)
                results.rows.append({**row, "calls": plan.num_calls, **errors})
        results.write()


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write exponential.json and exponential.png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--calls", type=int, nargs="+", default=list(CALLS))
    parser.add_argument(
        "--networks", nargs="+", choices=("mixtures", "embedded"), default=["mixtures"]
    )
    parser.add_argument("--resume", action="store_true", help="keep rows that are known already")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results = Results.read(options.output_dir / "exponential.json")
    for key, problem, samplers in problems(options.networks):
        renew(results, key, problem, samplers, options.calls, resume=options.resume)
        print(", ".join((*key.values(), "done")), flush=True)
    plot(results.rows, options.output_dir / "exponential.png")


if __name__ == "__main__":
    main()
