"""Noises led to a goal by several gradients through the sampler, each in the same CPU time.

The tasks are those of guide.py: pictures of "thing", each of which is to become a certain concept
that the embedded model has no word for. A gradient makes as many updates as take the time of the
job's own.

    python benchmarks/guide_gradients.py

What is there is not measured again, so that it can be stopped and go on.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import guide
from equal_time import cpu_seconds
from guide import SEED, Task, Way
from stamp import stamp

import adjointdpm as adp
from adjointdpm.storage import write_text

UPDATES, LEARNING_RATE = 10, 0.1
THE_JOBS = "Exact(memory_budget='1GiB')"
GRADIENTS: dict[str, adp.GradientMethod] = {
    THE_JOBS: adp.Exact(memory_budget="1GiB"),
    "CoarseAdjoint(5)": adp.CoarseAdjoint(5),
    "Truncated(2, 'detach_outputs')": adp.Truncated(2, "detach_outputs"),
    "ContinuousAdjoint()": adp.ContinuousAdjoint(),
}
"""Plain `Truncated(2)` is not among them: it sends no gradient to the noise at all."""


def seconds_of_one(task: Task) -> dict[str, float]:
    """Return the CPU seconds of an update of all pictures of a task, by gradient method.

    They are with the sample that is drawn in the end.
    """

    def update(gradient: adp.GradientMethod) -> None:
        task.sampler.gradient = gradient
        task.optimised_noise(1, LEARNING_RATE)

    return cpu_seconds({name: partial(update, each) for name, each in GRADIENTS.items()}, 3)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write JSON as it goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks/guide_gradients.json"))
    parser.add_argument("--pictures", type=int, default=2, help="of each target")
    parser.add_argument("--targets", type=int, default=6)
    parser.add_argument("--updates", type=int, default=UPDATES, help="by the job's own gradient")
    args = parser.parse_args(arguments)
    default = adp.load_default()
    targets = [concept.label for concept in default.concepts.wordless[: args.targets]]

    def task(number: int) -> Task:
        style = default.concepts.styles[0]
        return Task(default, targets[number], style, args.pictures, SEED + number)

    content: dict[str, Any] = json.loads(args.output.read_text()) if args.output.is_file() else {}
    prices = content.get("cpu_seconds_of_one") or seconds_of_one(task(0))
    rows: dict[str, dict[str, Any]] = content.get("rows", {})
    for number, target in enumerate(targets):
        for name, gradient in GRADIENTS.items():
            if target in rows.setdefault(name, {}):
                continue
            updates = max(1, round(args.updates * prices[THE_JOBS] / prices[name]))
            run = partial(Task.optimised_noise, updates=updates, learning_rate=LEARNING_RATE)
            one = task(number)
            one.sampler.gradient = gradient
            found, _ = guide.measure(one, Way(name, None, run))
            rows[name][target] = {"updates": updates, **found}
            print(name, target, json.dumps(rows[name][target]), flush=True)
            done = {name: guide.summary(list(by.values())) for name, by in rows.items() if by}
            content = {
                "steps": guide.STEPS,
                "guidance_scale": guide.GUIDANCE_SCALE,
                "learning_rate": LEARNING_RATE,
                "updates": args.updates,
                **stamp(),
                "cpu_seconds_of_one": prices,
                "summaries": done,
                "rows": rows,
            }
            write_text(args.output, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
