"""From how many steps on `CoarseAdjoint` is worth anything, and whether it knows.

    python benchmarks/coarse_steps.py          # the embedded model, some minutes on one idle core
    python benchmarks/coarse_steps.py --toy    # a Gaussian mixture, seconds
    python benchmarks/coarse_steps.py --rules  # other rules where steps are few, ten minutes

For each number of sampling steps and each share of products: the lowest cosine and the largest
relative error of the gradients for noise and conditioning, over samplers' seeds, and the largest
error that the method estimated itself. Results go to coarse_steps.json in the output directory,
those of rules to coarse_rules.json.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from coarse import SCHEDULERS, Problem, compare, embedded, toy
from stamp import write_stamped

import adjointdpm as adp

SHARES = (0.25, 0.33, 0.5, 0.75)
DEFAULT: dict[str, Callable[[int], adp.CoarseAdjoint]] = {"density 1.5": adp.CoarseAdjoint}
RULES: dict[str, Callable[[int], adp.CoarseAdjoint]] = {
    **DEFAULT,
    "density 1": lambda m: adp.CoarseAdjoint(m, density=1),
    "density 1.25": lambda m: adp.CoarseAdjoint(m, density=1.25),
    "density 2": lambda m: adp.CoarseAdjoint(m, density=2),
    "density 3": lambda m: adp.CoarseAdjoint(m, density=3),
    "transpose of dpmpp_2m": lambda m: adp.CoarseAdjoint(m, "dpmpp_2m"),
}


class _Estimate(adp.Observer):
    """What the method says of its own error; None where it has nothing to say it from."""

    error: float | None = None

    def on_error_estimate(self, error: float) -> None:
        self.error = error


def quality(
    problem: Problem, plan: adp.Plan, method: adp.CoarseAdjoint, exact: dict[str, Any]
) -> dict[str, Any]:
    """Return how good a gradient is, and what the method says of it."""
    observer = _Estimate()
    found = problem.gradients(plan, method, observer)
    compared = [compare(found[target], exact[target]) for target in found]
    return {
        "cosine": min(each["cosine"] for each in compared),
        "relative_error": max(each["relative_error"] for each in compared),
        "estimate": observer.error,
    }


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for each sampler, number of steps, rule and number of products."""
    rules = RULES if options.rules else DEFAULT
    for name, scheduler in SCHEDULERS.items():
        for steps in options.num_inference_steps:
            counts = sorted({max(round(share * steps), 2) for share in SHARES})
            found: dict[tuple[str, int], list[dict[str, Any]]] = {}
            for seed in range(options.seeds):
                problem = toy(seed) if options.toy else embedded(seed)
                problem.targets.pop("weights")
                problem.denoiser.requires_grad_(False)
                plan = adp.Plan.from_scheduler(scheduler.from_config(problem.scheduler), steps)
                exact = problem.gradients(plan, adp.Exact())
                for rule, count in product(rules, counts):
                    row = quality(problem, plan, rules[rule](count), exact)
                    found.setdefault((rule, count), []).append(row)
            for (rule, count), each in found.items():
                estimates = [row["estimate"] for row in each if row["estimate"] is not None]
                yield {
                    "scheduler": name,
                    "num_inference_steps": steps,
                    "rule": rule,
                    "products": count,
                    "cosine": min(row["cosine"] for row in each),
                    "relative_error": max(row["relative_error"] for row in each),
                    "estimate": max(estimates, default=None),
                }


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write coarse_steps.json or coarse_rules.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--num_inference_steps", type=int, nargs="+")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rules", action="store_true")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args(arguments)
    if options.num_inference_steps is None:
        options.num_inference_steps = [8, 10, 20] if options.rules else [8, 10, 20, 25, 50]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", adp.gradients.InaccurateGradientWarning)
    rows = []
    for row in measure(options):
        print(row, flush=True)
        rows.append(row)
    model = "Gaussian mixture" if options.toy else "embedded model"
    name = "coarse_rules.json" if options.rules else "coarse_steps.json"
    write_stamped(options.output_dir / name, {"model": model, "seeds": options.seeds}, rows=rows)


if __name__ == "__main__":
    main()
