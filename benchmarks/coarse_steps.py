"""From how many steps on `CoarseAdjoint` is worth anything, and whether it knows.

    python benchmarks/coarse_steps.py          # the embedded model, some minutes on one idle core
    python benchmarks/coarse_steps.py --toy    # a Gaussian mixture, seconds

For each number of sampling steps and each share of products: the lowest cosine and the largest
relative error of the gradients for noise and conditioning, over samplers' seeds, and the largest
error that the method estimated itself. Results go to coarse_steps.json in the output directory.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from coarse import SCHEDULERS, Problem, compare, embedded, toy
from stamp import stamp

import adjointdpm as adp

SHARES = (0.25, 0.33, 0.5, 0.75)


class _Estimate(adp.Observer):
    """What the method says of its own error; None where it has nothing to say it from."""

    error: float | None = None

    def on_error_estimate(self, error: float) -> None:
        self.error = error


def row_of(problem: Problem, plan: adp.Plan, count: int, exact: dict[str, Any]) -> dict[str, Any]:
    """Return how good the gradient with ``count`` products is, and what it says of itself."""
    observer = _Estimate()
    found = problem.gradients(plan, adp.CoarseAdjoint(count), observer)
    compared = [compare(found[target], exact[target]) for target in found]
    return {
        "products": count,
        "cosine": min(each["cosine"] for each in compared),
        "relative_error": max(each["relative_error"] for each in compared),
        "estimate": observer.error,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and write coarse_steps.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--num_inference_steps", type=int, nargs="+", default=[8, 10, 20, 25, 50])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", adp.gradients.InaccurateGradientWarning)
    rows = []
    for name, scheduler in SCHEDULERS.items():
        for steps in options.num_inference_steps:
            counts = sorted({max(round(share * steps), 2) for share in SHARES})
            found: dict[int, list[dict[str, Any]]] = {count: [] for count in counts}
            for seed in range(options.seeds):
                problem = toy(seed) if options.toy else embedded(seed)
                problem.targets.pop("weights")
                problem.denoiser.requires_grad_(False)
                plan = adp.Plan.from_scheduler(scheduler.from_config(problem.scheduler), steps)
                exact = problem.gradients(plan, adp.Exact())
                for count in counts:
                    found[count].append(row_of(problem, plan, count, exact))
            for count, each in found.items():
                estimates = [row["estimate"] for row in each if row["estimate"] is not None]
                row = {
                    "scheduler": name,
                    "num_inference_steps": steps,
                    "products": count,
                    "cosine": min(row["cosine"] for row in each),
                    "relative_error": max(row["relative_error"] for row in each),
                    "estimate": max(estimates, default=None),
                }
                rows.append(row)
                print(row, flush=True)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    model = "Gaussian mixture" if options.toy else "embedded model"
    content = {"model": model, **stamp(), "rows": rows}
    (options.output_dir / "coarse_steps.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
