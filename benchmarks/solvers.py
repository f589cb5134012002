"""Error against network calls of all deterministic solvers, on two Gaussian mixtures.

Run ``python benchmarks/solvers.py`` (under a minute on one core); it prints the tables of
docs/solvers.md. The networks are exact, so every error is the solver's own. The ``smooth`` mixture
has components as wide as the distance between them, the ``sharp`` one narrow ones, as images are.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from mixtures import PROCESSES, GaussianMixture, dense_sample

from adjointdpm import Denoiser, solvers
from adjointdpm.baselines.torchdiffeq import odeint

SCHEDULE = PROCESSES["scaled_linear"]
CALLS_A_STEP = {
    "heun": 2,
    "midpoint": 2,
    "ralston": 2,
    "bs3": 3,
    "rk4": 4,
    "dopri5": 6,
    "am2": 2,
    "am3": 2,
    "am4": 2,
    "dpm_solver_2": 2,
    "dpm_solver_3": 3,
    "dpmpp_2s": 2,
}
MIXTURES = {
    "smooth": GaussianMixture(),
    "sharp": GaussianMixture(stds=torch.tensor([0.1, 0.05, 0.15], dtype=torch.float64)),
}
NOISE = torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def run(
    mixture: GaussianMixture, solver: str, steps: int, spacing: str, form: Any = None
) -> Tensor:
    plan = solvers.build(
        solver, SCHEDULE, steps, spacing, "v_prediction", form=form, final_sigmas_type="sigma_min"
    )
    return dense_sample(plan, mixture.network(SCHEDULE, "v_prediction"), NOISE)


def error(sample: Tensor, reference: Tensor) -> str:
    return f"{float((sample - reference).norm(dim=1).mean()):.0e}"


def fixed_grids(references: dict[str, Tensor], calls: int) -> None:
    print(f"\n| solver | form | smooth, karras | smooth, log_snr | sharp, karras | sharp, log_snr |"
          f"   <!-- {calls} calls -->\n|---|---|---|---|---|---|")  # fmt: skip
    rows = []
    for solver in solvers.SOLVERS:
        if solver in (*solvers.STOCHASTIC_SOLVERS, "euler", "ab1", "deis1", "dpmpp_1s"):
            continue
        ode = solver in solvers.ODE_SOLVERS
        for form in ("noise", "flow", "angle") if ode else (None,):
            steps = calls // CALLS_A_STEP.get(solver, 1)
            errors = [
                error(run(MIXTURES[name], solver, steps, spacing, form), references[name])
                for name in MIXTURES
                for spacing in ("karras", "log_snr")
            ]
            rows.append((float(errors[3]), f"| {solver} | {form or ''} | {' | '.join(errors)} |"))
    print("\n".join(line for _, line in sorted(rows)))


def adaptive(references: dict[str, Tensor]) -> None:
    print(
        "\n| form | tolerance | smooth: calls | error | sharp: calls | error |\n" + "|---" * 6 + "|"
    )
    for tolerance in (1e-3, 1e-5):
        for form in ("x", "noise", "data", "flow", "angle"):
            cells = []
            for name, mixture in MIXTURES.items():
                network = mixture.network(SCHEDULE, "v_prediction")
                denoiser = Denoiser(network, SCHEDULE, "v_prediction")
                with torch.no_grad():
                    solution = odeint(
                        denoiser, NOISE, form=form, rtol=tolerance, atol=tolerance,
                        final_sigmas_type="sigma_min",
                    )  # fmt: skip
                cells += [str(solution.num_calls), error(solution.sample, references[name])]
            print(f"| {form} | {tolerance:g} | {' | '.join(cells)} |")


def main() -> None:
    references = {
        name: run(mixture, "dopri5", 400, "log_snr", "data") for name, mixture in MIXTURES.items()
    }
    fixed_grids(references, 24)
    adaptive(references)


if __name__ == "__main__":
    main()
