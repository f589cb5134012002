"""How far the gradient of the ODE, and a truncated one, are from the gradient of the sampler.

    python -m benchmarks.continuous          # the embedded model, some minutes on one core
    python -m benchmarks.continuous --toy    # a Gaussian mixture, seconds

For each setting of `ContinuousAdjoint` and `Truncated`, on one sampling run: cosine and relative
error against `Exact` of the gradients for noise, embedding and weights, and the network
calls of the reverse sweep. Results go to continuous.json in the output directory, row by row; rows
that are there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

import adjointdpm as adp

sys.path.insert(0, str(Path(__file__).parent))
from coarse import Problem, compare, embedded, toy
from stamp import stamp

SCHEDULERS = {"DDIM": DDIMScheduler, "DPM-Solver++": DPMSolverMultistepScheduler}
FORMS = ("flow", "angle", "noise", "data")
SOLVERS: dict[str, dict[str, Any]] = {
    "heun, own grid": {"solver": "heun"},
    "heun, 25 steps": {"solver": "heun", "num_steps": 25},
    "heun, 12 steps": {"solver": "heun", "num_steps": 12},
    "ab2, own grid": {"solver": "ab2"},
    "ab2, 25 steps": {"solver": "ab2", "num_steps": 25},
    "euler, own grid": {"solver": "euler"},
    "euler, 25 steps": {"solver": "euler", "num_steps": 25},
    "bs3, rtol=1e-2": {"solver": "bs3", "rtol": 1e-2},
    "dopri5, rtol=1e-2": {"solver": "dopri5", "rtol": 1e-2},
}


def settings() -> Iterator[tuple[dict[str, Any], adp.GradientMethod]]:
    """Yield what is measured: the keys of a row, and the method."""
    run = {"scheduler": "DPM-Solver++", "num_inference_steps": 50}
    for form in FORMS:
        for name, options in SOLVERS.items():
            method = adp.ContinuousAdjoint(**options, form=form)
            yield {**run, "setting": name, "form": form}, method
    resolved = adp.ContinuousAdjoint(trajectory="resolved")
    yield {**run, "setting": "heun, own grid, resolved", "form": "auto"}, resolved
    for mode in ("detach_steps", "detach_outputs"):
        for last in (5, 25):
            yield {**run, "setting": f"last={last}, {mode}"}, adp.Truncated(last, mode)
    for scheduler in SCHEDULERS:
        for steps in (10, 20, 50, 100):
            run = {"scheduler": scheduler, "num_inference_steps": steps}
            yield {**run, "setting": "default"}, adp.ContinuousAdjoint()


def measure(problem: Problem, key: dict[str, Any], method: adp.GradientMethod) -> dict[str, Any]:
    """Return one row."""
    scheduler = SCHEDULERS[key["scheduler"]].from_config(problem.scheduler)
    plan = adp.Plan.from_scheduler(scheduler, key["num_inference_steps"])
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    hook = problem.denoiser.network.register_forward_pre_hook(count)
    try:
        found = problem.gradients(plan, method)
    except (ValueError, FloatingPointError) as error:
        return {**key, "refused": str(error)}
    finally:
        hook.remove()
    exact = problem.gradients(plan, adp.Exact())
    errors = {
        name: compare(gradient if len(gradient) else torch.zeros_like(exact[name]), exact[name])
        for name, gradient in found.items()
    }
    return {**key, "reverse_calls": calls - plan.num_calls, "errors": errors}


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, and write continuous.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    problem = toy(0) if options.toy else embedded(0)
    path = options.output_dir / "continuous.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    for key, method in settings():
        if any(key.items() <= row.items() for row in rows):
            continue
        rows.append(measure(problem, key, method))
        content = {
            "model": "Gaussian mixture" if options.toy else "embedded model, guidance 4, seed 0",
            **stamp(),
            "rows": rows,
        }
        path.write_text(json.dumps(content, indent=1) + "\n")
        print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
