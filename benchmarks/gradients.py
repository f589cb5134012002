"""Every gradient method beside every peer: error, time and memory of one and the same gradient.

    python benchmarks/gradients.py                      # all three phases
    python benchmarks/gradients.py --only errors memory # does not mind a busy machine
    python benchmarks/gradients.py --only time          # wants an idle one

Results are merged into gradients.json in the output directory, cell by cell, and tables and plots
are drawn from all that is there. docs/benchmarks/gradients.md says how to read them.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from contestants import CALLS, METHODS, ONE_CALL, Gradient, Method
from gradients_report import write_report
from problems import Problem, make
from torch import Tensor

import adjointdpm as adp
from adjointdpm.memory import peak_on

CONTESTS = ("embedded/euler", "embedded/heun", "inputs/euler", "mixture/euler", "mixture/heun")
PHASES = ("errors", "memory", "time")
LIBRARIES = ("torch", "diffusers", "torchdiffeq", "torchode", "diffrax", "jax")
Cells = dict[str, Any]
"""Measured numbers, by method."""
TOY: dict[str, Any] = {
    "contests": ["embedded/euler", "mixture/heun"],
    "calls": 4,
    "memory_calls": [2, 4],
    "repeats": 1,
}


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--contests", nargs="+", choices=CONTESTS, default=list(CONTESTS))
    parser.add_argument("--methods", nargs="+", help="names as in the tables; all by default")
    parser.add_argument("--calls", type=int, default=20, help="N, of the sampler")
    parser.add_argument("--memory_calls", type=int, nargs="+", default=[10, 50, 200, 1000])
    parser.add_argument(
        "--graph_calls", type=int, default=200, help="methods that keep all graphs stop here"
    )
    parser.add_argument("--batch_size", type=int, default=1, help="of the embedded model")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--toy", action="store_true", help="a minute, to see that it runs")
    if parser.parse_args(arguments).toy:
        parser.set_defaults(**TOY)
    return parser.parse_args(arguments)


def contestants(args: argparse.Namespace, contest: str) -> Iterator[Method]:
    """Yield who takes part in a contest."""
    for method in METHODS:
        chosen = not args.methods or method.name in args.methods
        if chosen and method.available and contest.split("/")[0] in method.problems:
            yield method


def problem_of(
    args: argparse.Namespace, contest: str, calls: int, dtype: torch.dtype | None = None
) -> Problem:
    """Return a contest's problem, in the precision in which it is used unless another is given."""
    name, solver = contest.split("/")
    dtype = dtype or (torch.float64 if name == "mixture" else torch.float32)
    return make(name, solver, calls, args.batch_size, dtype, args.device)


def measure_errors(args: argparse.Namespace, contest: str) -> Iterator[Cells]:
    """Yield relative error and cosine of every target, against backpropagation in float64."""
    exactly = problem_of(args, contest, args.calls, torch.float64)
    problems = {"float64": exactly}
    if not contest.startswith("mixture"):
        problems["float32"] = problem_of(args, contest, args.calls)
    references: dict[str, dict[str, Tensor]] = {}

    def reference(plan: adp.Plan) -> dict[str, Tensor]:
        if plan.name not in references:
            sampler = adp.Sampler(exactly.denoiser, plan, adp.Backprop())
            gradients = exactly.gradients(sampler(exactly.noise, **exactly.cond))
            references[plan.name] = exactly.flat(gradients)
        return references[plan.name]

    def compare(method: Method, problem: Problem) -> dict[str, dict[str, float]]:
        truth = reference(method.reference(exactly))
        found = problem.flat(method.prepare(problem)())
        return {
            name: {
                "relative_error": float((found[name] - truth[name]).norm() / truth[name].norm()),
                "cosine": float(torch.cosine_similarity(found[name], truth[name], dim=0)),
            }
            for name in truth
        }

    for method in contestants(args, contest):
        yield {method.name: {kind: compare(method, problem) for kind, problem in problems.items()}}


def peak_of(gradient: Gradient, device: str) -> int:
    """Return the most bytes that a gradient held at once: planned, allocated or counted."""
    planned = getattr(gradient, "peak_bytes", None)
    if planned is not None:
        return planned
    gc.collect()
    return peak_on(torch.device(device), gradient)


def measure_memory(args: argparse.Namespace, contest: str) -> Iterator[Cells]:
    """Yield peaks in bytes by the number of network calls, and those of one call alone."""
    methods = list(contestants(args, contest))
    for calls in args.memory_calls:
        problem = problem_of(args, contest, calls)
        gradients = {method.calls: ONE_CALL[method.calls] for method in methods}
        gradients |= {
            method.name: method.prepare
            for method in methods
            if not method.keeps_graphs or calls <= args.graph_calls
        }
        for name, prepare in gradients.items():
            yield {name: {str(calls): peak_of(prepare(problem), args.device)}}


def seconds(gradient: Gradient, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    gradient()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure_time(args: argparse.Namespace, contest: str) -> Iterator[Cells]:
    """Yield median seconds, and the median ratio to the bare network calls of the same round."""
    problem = problem_of(args, contest, args.calls)
    methods = {method.name: method for method in contestants(args, contest)}
    baselines = {method.calls for method in methods.values()}
    gradients = {name: CALLS[name](problem) for name in sorted(baselines)}
    gradients |= {name: method.prepare(problem) for name, method in methods.items()}
    for gradient in gradients.values():
        gradient()
    rounds = [
        {name: seconds(gradient, args.device) for name, gradient in gradients.items()}
        for _ in range(args.repeats)
    ]

    def cell(name: str) -> dict[str, float]:
        calls = methods[name].calls if name in methods else name
        return {
            "seconds": statistics.median(times[name] for times in rounds),
            "ratio": statistics.median(times[name] / times[calls] for times in rounds),
        }

    yield {name: cell(name) for name in gradients}


MEASURES = {"errors": measure_errors, "memory": measure_memory, "time": measure_time}


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """Describe the machine and the libraries, without naming either's place."""
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line for line in information.read_text().splitlines() if "model name" in line]
        cpu = names[0].split(":")[1].strip() if names else cpu
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = "not installed"
    return {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else cpu,
        "threads": torch.get_num_threads(),
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        **versions,
    }


def merge(into: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Merge nested dicts; new leaves replace old ones."""
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value
    return into


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / "gradients.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    settings = {key: getattr(args, key) for key in ("calls", "batch_size", "repeats")}
    for phase in args.only:
        merge(results, {"settings": {phase: {**settings, "machine": machine(args)}}})
        for contest in args.contests:
            start = time.perf_counter()
            for cells in MEASURES[phase](args, contest):
                merge(results, {phase: {contest: cells}})
                path.write_text(json.dumps(results, indent=1) + "\n")
            print(f"{phase} of {contest}: {time.perf_counter() - start:.0f} s", flush=True)
    write_report(results, args.output_dir)


if __name__ == "__main__":
    main()
