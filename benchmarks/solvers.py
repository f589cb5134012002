"""Error against network calls of all deterministic solvers, on two Gaussian mixtures.

    python benchmarks/solvers.py            # ten seconds on one core
    python benchmarks/solvers.py --toy      # a few solvers and points

The networks are exact, so every error is the solver's own. The ``smooth`` mixture has components as
wide as the distance between them, the ``sharp`` one narrow ones, as images are. Results go to
solvers.json in the output directory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from odes import SHARP, SMOOTH, largest_plan
from stamp import write_stamped
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from mixtures import PROCESSES, GaussianMixture, dense_sample

from adjointdpm import Denoiser, Plan, solvers
from adjointdpm.baselines.torchdiffeq import odeint

PROCESS = "scaled_linear"
SCHEDULE = PROCESSES[PROCESS]
CALLS = 24
"""Of the network. Methods with stages, or that start with them, take fewer steps."""
MIXTURES = {"smooth": SMOOTH, "sharp": SHARP}
SPACINGS = ("karras", "log_snr")
TOLERANCES = (1e-3, 1e-5)
SAME = (*solvers.STOCHASTIC_SOLVERS, "euler", "ab1", "deis1", "dpmpp_1s")
"""Those that draw noise, and those that are ``ddim`` or ``euler`` by another name."""


def plan_of(solver: str, spacing: str, form: Any, steps: int) -> Plan:
    return solvers.build(
        solver, SCHEDULE, steps, spacing, "v_prediction", form=form, final_sigmas_type="sigma_min"
    )


def sampled(plan: Plan, mixture: GaussianMixture, noise: Tensor) -> Tensor:
    return dense_sample(plan, mixture.network(SCHEDULE, "v_prediction"), noise)


def forms_of(solver: str) -> Sequence[str | None]:
    if solver in solvers.ODE_SOLVERS:
        return "noise", "flow", "angle"
    own = {"noise": solvers.NOISE_SOLVERS, "data": solvers.DATA_SOLVERS}
    return [form for form, of_it in own.items() if solver in of_it] or [None]


def distance(sample: Tensor, reference: Tensor) -> float:
    return float((sample - reference).norm(dim=1).mean())


def fixed_grids(
    names: Sequence[str], noise: Tensor, references: dict[str, Tensor]
) -> Iterator[dict[str, Any]]:
    """Measure solvers in each form and spacing."""
    for solver in names:
        for form, spacing in product(forms_of(solver), SPACINGS):
            plan = largest_plan(partial(plan_of, solver, spacing, form), CALLS)
            assert plan is not None, f"{solver} takes more than {CALLS} calls"
            for name, mixture in MIXTURES.items():
                yield {
                    "solver": solver,
                    "form": form or "",
                    "mixture": name,
                    "spacing": spacing,
                    "calls": plan.num_calls,
                    "error": distance(sampled(plan, mixture, noise), references[name]),
                }


def adaptive(noise: Tensor, references: dict[str, Tensor]) -> Iterator[dict[str, Any]]:
    """Measure torchdiffeq's dopri5 in each form, by tolerance."""
    for tolerance in TOLERANCES:
        for form in ("x", "noise", "data", "flow", "angle"):
            for name, mixture in MIXTURES.items():
                network = mixture.network(SCHEDULE, "v_prediction")
                denoiser = Denoiser(network, SCHEDULE, "v_prediction")
                with torch.no_grad():
                    solution = odeint(
                        denoiser, noise, form=form, rtol=tolerance, atol=tolerance,
                        final_sigmas_type="sigma_min",
                    )  # fmt: skip
                yield {
                    "form": form,
                    "tolerance": tolerance,
                    "mixture": name,
                    "calls": solution.num_calls,
                    "error": distance(solution.sample, references[name]),
                }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write solvers.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args(argv)
    points, reference_steps = (4, 40) if options.toy else (64, 400)
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(points, 3, dtype=torch.float64, generator=generator)
    names = (
        ["ddim", "heun", "ab4"] if options.toy else [s for s in solvers.SOLVERS if s not in SAME]
    )
    references = {
        name: sampled(plan_of("dopri5", "log_snr", "data", reference_steps), mixture, noise)
        for name, mixture in MIXTURES.items()
    }
    settings = {
        "process": PROCESS,
        "points": points,
        "reference": f"dopri5, {reference_steps} steps, data form",
    }
    write_stamped(
        options.output_dir / "solvers.json",
        settings,
        fixed=list(fixed_grids(names, noise, references)),
        adaptive=list(adaptive(noise, references)),
    )


if __name__ == "__main__":
    main()
