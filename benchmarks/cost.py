"""How far `Sampler.cost` is from what is then measured, for several methods and numbers of steps.

    python benchmarks/cost.py --output_dir docs/benchmarks

Each row is predicted / measured. Seconds are the median of a few runs; on a machine that others use
too they say more about those others. Memory on a CPU is the sum of tensors, the same in every run.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from core import SCHEDULE, make_network, seconds
from stamp import stamp

import adjointdpm as adp
from adjointdpm.memory import peak_on

METHODS: dict[str, Callable[[int], adp.GradientMethod]] = {
    "Backprop()": lambda steps: adp.Backprop(),
    "Exact()": lambda steps: adp.Exact(),
    "Exact(memory_budget='100MB')": lambda steps: adp.Exact(memory_budget="100MB"),
    "Exact(max_latents=4)": lambda steps: adp.Exact(max_latents=4),
    "ContinuousAdjoint()": lambda steps: adp.ContinuousAdjoint(),
    "CoarseAdjoint(steps // 4)": lambda steps: adp.CoarseAdjoint(max(steps // 4, 1)),
    "Truncated(2)": lambda steps: adp.Truncated(2),
    "Symplectic()": lambda steps: adp.Symplectic(),
    "Reversible()": lambda steps: adp.Reversible(),
}


def compare(name: str, steps: int, denoiser: adp.Denoiser, args: argparse.Namespace) -> Any:
    plan = adp.solvers.build("ddim", SCHEDULE, steps)
    sampler = adp.Sampler(denoiser, plan, METHODS[name](steps))
    shape = (args.batch, 4, args.size, args.size)
    noise = torch.randn(shape, device=args.device).requires_grad_()
    emb = torch.randn(args.batch, 16, 64, device=args.device).requires_grad_()
    targets = [noise, emb, *(p for p in denoiser.parameters() if p.requires_grad)]

    def gradient() -> None:
        sample = sampler(noise, encoder_hidden_states=emb)
        torch.autograd.grad(sample, targets, torch.ones_like(sample), allow_unused=True)

    predictions, times = [], []
    for _ in range(args.repeats):
        cost = sampler.cost(noise, encoder_hidden_states=emb)
        predictions.append(cost.seconds)
        times.append(seconds(gradient, args.device))
    peak = peak_on(torch.device(args.device), gradient)
    return {
        "method": name,
        "steps": steps,
        "calls": [cost.forward_calls, cost.recomputed_calls, cost.products],
        "seconds": statistics.median(times),
        "seconds_ratio": statistics.median(
            predicted / time for predicted, time in zip(predictions, times, strict=True)
        ),
        "peak_memory": peak,
        "peak_memory_ratio": cost.peak_memory / peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 25])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=16, help="height and width of the latent")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--weights", action="store_true", help="weight gradients too")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output_dir", type=Path, default=Path("benchmark-results"))
    args = parser.parse_args()

    denoiser = adp.Denoiser(make_network(args), SCHEDULE)
    rows = []
    print(f"{'method':30s} {'steps':>5s} {'calls':>14s} {'time':>6s} {'memory':>6s}")
    for steps in args.steps:
        for name in args.methods:
            row = compare(name, steps, denoiser, args)
            rows.append(row)
            calls = "+".join(str(number) for number in row["calls"])
            print(
                f"{name:30s} {steps:5d} {calls:>14s} {row['seconds_ratio']:6.2f} "
                f"{row['peak_memory_ratio']:6.3f}",
                flush=True,
            )
    args.output_dir.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in vars(args).items() if key != "output_dir"}
    name = "cost_weights.json" if args.weights else "cost.json"
    result = {"settings": settings, **stamp(args.device), "rows": rows}
    (args.output_dir / name).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
