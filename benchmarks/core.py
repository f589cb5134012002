"""Time and memory of one exact gradient, beside what it is made of and beside its peers.

All in one run, interleaved, reported as ratios:

- ``calls``: the network calls that an exact gradient is made of, and nothing else (N forward
  without a graph, N forward and backward);
- ``exact``: our default; ``exact_budget``: with a memory budget that holds every graph;
- ``checkpoint``: a sampling loop by hand with ``torch.utils.checkpoint`` around the denoiser;
- ``backprop``: the same loop with all activations kept.

    python benchmarks/core.py --output_dir docs/benchmarks
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from stamp import stamp
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import adjointdpm as adp
from adjointdpm.memory import peak_on

CPU = torch.device("cpu")
SCHEDULE = adp.Schedule.vp_linear()
BARS = {
    "time of exact / its network calls": 1.08,
    "time of exact / hand-written checkpointing": 1.0,
    "peak at 200 steps / peak at 10 steps": 1.1,
    "peak at 10 steps / one forward and backward": 1.3,
}


class TimeScaled(torch.nn.Module):
    """The UNet on the process' own time, 0 to 1."""

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        return self.unet(x, 999 * t, encoder_hidden_states).sample


def make_network(args: argparse.Namespace) -> torch.nn.Module:
    """Return a UNet of the embedded model's shape, with random weights: speed does not care."""
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=32,
        norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    return TimeScaled(unet).requires_grad_(args.weights).to(args.device)


def by_hand(
    denoiser: adp.Denoiser,
    plan: adp.Plan,
    noise: Tensor,
    cond: dict[str, Any],
    wrap: Callable[..., Tensor],
) -> Tensor:
    """DDIM as one writes it: ten lines around the denoiser."""
    x = noise
    marginals = plan.marginals(denoiser.schedule)
    for k, t in enumerate(plan.timesteps.tolist()):
        (alpha, sigma), (next_alpha, next_sigma) = marginals[k].tolist(), marginals[k + 1].tolist()
        eps = wrap(denoiser, x, t, **cond)
        sample = (x - sigma * eps) / alpha
        x = next_alpha * sample + next_sigma * eps
    return x


def checkpointed(denoiser: adp.Denoiser, x: Tensor, t: float, **cond: Any) -> Tensor:
    return checkpoint(denoiser, x, t, use_reentrant=False, **cond)


def plainly(denoiser: adp.Denoiser, x: Tensor, t: float, **cond: Any) -> Tensor:
    return denoiser(x, t, **cond)


class Contest:
    """The contestants on one network and one number of steps."""

    def __init__(self, denoiser: adp.Denoiser, args: argparse.Namespace, steps: int) -> None:
        self.denoiser, self.steps = denoiser, steps
        self.plan = adp.solvers.build("ddim", SCHEDULE, steps)
        generator = torch.Generator().manual_seed(0)
        shape = (args.batch, 4, 16, 16)
        self.noise = torch.randn(shape, generator=generator).to(args.device).requires_grad_()
        emb = torch.randn(args.batch, 16, 64, generator=generator)
        self.emb = emb.to(args.device).requires_grad_()
        self.cond = {"encoder_hidden_states": self.emb}

    def _backward(self, sample: Tensor) -> None:
        targets = [
            self.noise,
            self.emb,
            *(p for p in self.denoiser.parameters() if p.requires_grad),
        ]
        torch.autograd.grad(sample.square().mean(), targets, allow_unused=True)

    def calls(self) -> None:
        for t in self.plan.timesteps.tolist():
            with torch.no_grad():
                self.denoiser(self.noise, t, encoder_hidden_states=self.emb)
        for t in self.plan.timesteps.tolist():
            self._backward(self.denoiser(self.noise, t, encoder_hidden_states=self.emb))

    def exact(self) -> None:
        self._sample(adp.Exact())

    def exact_budget(self) -> None:
        self._sample(adp.Exact(memory_budget="100GiB"))

    def _sample(self, method: adp.GradientMethod) -> None:
        sampler = adp.Sampler(self.denoiser, self.plan, method)
        self._backward(sampler(self.noise, encoder_hidden_states=self.emb))

    def checkpoint(self) -> None:
        self._backward(by_hand(self.denoiser, self.plan, self.noise, self.cond, checkpointed))

    def backprop(self) -> None:
        self._backward(by_hand(self.denoiser, self.plan, self.noise, self.cond, plainly))


CONTESTANTS = ("calls", "exact", "checkpoint", "backprop", "exact_budget")


def seconds(run: Callable[[], None], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure_time(denoiser: adp.Denoiser, args: argparse.Namespace) -> dict[str, float]:
    """Return each contestant's median time over that of the bare network calls beside it."""
    contest = Contest(denoiser, args, args.steps)
    ratios: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    contest.exact()
    for _ in range(args.repeats):
        times = {name: seconds(getattr(contest, name), args.device) for name in CONTESTANTS}
        for name in CONTESTANTS:
            ratios[name].append(times[name] / times["calls"])
        ratios.setdefault("exact / checkpoint", []).append(times["exact"] / times["checkpoint"])
        ratios.setdefault("exact_budget / backprop", []).append(
            times["exact_budget"] / times["backprop"]
        )
    return {name: statistics.median(values) for name, values in ratios.items()}


def measure_memory(denoiser: adp.Denoiser, args: argparse.Namespace) -> dict[str, Any]:
    """Return peaks in bytes, with the stored latents (N network inputs) taken off."""
    one = Contest(denoiser, args, 1)

    def one_call() -> None:
        one._backward(denoiser(one.noise, 0.5, encoder_hidden_states=one.emb))

    peaks: dict[str, Any] = {"one_call": peak_on(CPU, one_call)}
    for name in ("exact", "checkpoint", "backprop"):
        peaks[name] = {}
        for steps in args.memory_steps:
            if name == "backprop" and steps > 50:
                continue
            contest = Contest(denoiser, args, steps)
            latents = steps * contest.noise.nbytes if name != "backprop" else 0
            peaks[name][steps] = peak_on(CPU, getattr(contest, name)) - latents
    return peaks


def plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    names = [name for name in CONTESTANTS if name != "calls"]
    left.barh(names, [result["time"][name] for name in names], color="#4c72b0")
    left.axvline(1.0, color="black", linewidth=1)
    left.set_xlabel("time / the network calls of an exact gradient")
    left.invert_yaxis()
    for name in ("backprop", "checkpoint", "exact"):
        peaks = result["memory"][name]
        right.plot(
            [int(n) for n in peaks],
            [peak / result["memory"]["one_call"] for peak in peaks.values()],
            marker="o",
            label=name,
        )
    right.set(xscale="log", yscale="log", xlabel="sampling steps")
    right.set_ylabel("peak / one forward and backward")
    right.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--memory_steps", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--weights", action="store_true", help="weight gradients too")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output_dir", type=Path, default=Path("benchmark-results"))
    args = parser.parse_args()

    denoiser = adp.Denoiser(make_network(args), SCHEDULE)
    result: dict[str, Any] = {
        "settings": {
            "steps": args.steps,
            "batch": args.batch,
            "repeats": args.repeats,
            "weights": args.weights,
            "device": args.device,
        },
        **stamp(args.device),
        "time": measure_time(denoiser, args),
        "memory": measure_memory(denoiser, args),
    }
    memory = result["memory"]
    result["bars"] = {
        "time of exact / its network calls": result["time"]["exact"],
        "time of exact / hand-written checkpointing": result["time"]["exact / checkpoint"],
        "peak at 200 steps / peak at 10 steps": memory["exact"][max(args.memory_steps)]
        / memory["exact"][min(args.memory_steps)],
        "peak at 10 steps / one forward and backward": memory["exact"][min(args.memory_steps)]
        / memory["one_call"],
    }
    args.output_dir.mkdir(parents=True, exist_ok=True)
    name = "core_weights" if args.weights else "core"
    (args.output_dir / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    plot(result, args.output_dir / f"{name}.png")
    for bar, limit in BARS.items():
        value = result["bars"][bar]
        print(f"{bar:48s} {value:6.3f}  (bar {limit}) {'ok' if value <= limit else 'MISSED'}")


if __name__ == "__main__":
    main()
