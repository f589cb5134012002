"""How far `Reversible` walks back from the noise that it was given, and how exact its gradient is.

    python benchmarks/reversible.py          # the embedded model, two minutes on one idle core
    python benchmarks/reversible.py --toy    # a Gaussian mixture, seconds

The gradient is compared with `Exact` on the plan of the sampler that `Reversible` runs. Results go
to reversible.json in the output directory.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from coarse import SCHEDULERS, Problem, compare, embedded, toy
from stamp import write_stamped

import adjointdpm as adp

METHODS = {
    "mccallum_foster": adp.Reversible(),
    "bdia": adp.Reversible("bdia"),
    "belm": adp.Reversible("belm"),
}


class _RoundTrip(adp.Observer):
    """How far the walk back ended from the noise, relative to its norm."""

    distance = float("nan")

    def on_round_trip(self, distance: float) -> None:
        self.distance = distance


def measure(problem: Problem, steps: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each family and target."""
    scheduler = SCHEDULERS["DDIM"].from_config(problem.scheduler)
    plan = adp.Plan.from_scheduler(scheduler, steps)
    for family, method in METHODS.items():
        observer = _RoundTrip()
        found = problem.gradients(plan, method, observer)
        own = method.reference_plan(plan, problem.denoiser.schedule)
        exact = problem.gradients(own, adp.Exact())
        for target, gradient in found.items():
            row = {"family": family, "target": target, "round_trip": observer.distance}
            yield {**row, **compare(gradient, exact[target])}


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write reversible.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--num_inference_steps", type=int, default=50)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    problem = toy(0) if options.toy else embedded(0)
    settings = {
        "model": "Gaussian mixture" if options.toy else "embedded model, guidance 4",
        "num_inference_steps": options.num_inference_steps,
    }
    rows = list(measure(problem, options.num_inference_steps))
    write_stamped(options.output_dir / "reversible.json", settings, rows=rows)


if __name__ == "__main__":
    main()
