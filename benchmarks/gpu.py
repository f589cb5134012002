"""One gradient through a UNet of real size: seconds and peak memory, by method and steps.

UNets of the shapes of Stable Diffusion 1.5 and SDXL with random weights (speed does not care),
classifier-free guidance, gradients for noise and prompt embedding; beside them, one guided call of
the network, and one with its vector-Jacobian product. Methods that run out of memory are recorded
as such.

    python benchmarks/gpu.py --models sd15 sdxl --output_dir docs/benchmarks
    python benchmarks/gpu.py --models toy --steps 2 4     # on any machine, in seconds
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from core import by_hand, checkpointed, plainly, seconds
from diffusers import UNet2DConditionModel
from stamp import stamp
from torch import Tensor

import adjointdpm as adp
from adjointdpm.memory import peak_on

SCHEDULE = adp.Schedule.from_config(
    {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    }
)
METHODS = ("backprop", "checkpoint", "exact", "exact_budget", "coarse")


@dataclass(frozen=True)
class Model:
    """A UNet's shape, the picture sizes it is run at, and the conditioning it takes."""

    config: dict[str, Any]
    resolutions: tuple[int, ...]
    pooled_dim: int = 0


MODELS = {
    "toy": Model(
        {
            "block_out_channels": (8, 16),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 2,
            "cross_attention_dim": 16,
        },
        (64,),
    ),
    "sd15": Model({"cross_attention_dim": 768}, (512, 1024)),
    "sdxl": Model(
        {
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        (512, 1024),
        pooled_dim=1280,
    ),
}


class Workload:
    """One model at one resolution: its denoiser, noise and conditioning."""

    def __init__(self, name: str, resolution: int, args: argparse.Namespace) -> None:
        model = MODELS[name]
        torch.manual_seed(0)
        with torch.device(args.device):
            unet = UNet2DConditionModel(sample_size=resolution // 8, **model.config)
            self.noise = torch.randn(args.batch, 4, resolution // 8, resolution // 8)
            shape = (args.batch, 77, model.config["cross_attention_dim"])
            self.embeds = torch.randn(shape).requires_grad_()
            negative = torch.randn(shape)
            pooled = torch.randn(args.batch, model.pooled_dim)
            sizes = torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]])
        self.noise.requires_grad_()
        unet = unet.to(getattr(torch, args.dtype)).eval().requires_grad_(False)
        self.parameters = sum(p.numel() for p in unet.parameters())
        self.denoiser = adp.Denoiser(unet, SCHEDULE, guidance_scale=7.5)
        self.cond = {
            "encoder_hidden_states": self.embeds,
            "negative_encoder_hidden_states": negative,
        }
        if model.pooled_dim:
            added = {"text_embeds": pooled, "time_ids": sizes.expand(args.batch, -1).float()}
            self.cond |= {"added_cond_kwargs": added, "negative_added_cond_kwargs": added}

    def call(self, with_product: bool) -> Callable[[], None]:
        """Return the function that asks the network once."""

        def run() -> None:
            with torch.set_grad_enabled(with_product):
                answer = self.denoiser(self.noise, 500.0, **self.cond)
            if with_product:
                torch.autograd.grad(answer, [self.noise, self.embeds], torch.ones_like(answer))

        return run

    def gradient(self, method: str, steps: int, budget: str) -> Callable[[], None]:
        """Return the function that takes one gradient."""
        plan = adp.solvers.build("ddim", SCHEDULE, steps)
        ours = {
            "exact": adp.Exact(),
            "exact_budget": adp.Exact(memory_budget=budget),
            "coarse": adp.CoarseAdjoint(num_steps=max(steps // 4, 1)),
        }

        def sample() -> Tensor:
            if method in ours:
                return adp.Sampler(self.denoiser, plan, ours[method])(self.noise, **self.cond)
            wrap = checkpointed if method == "checkpoint" else plainly
            return by_hand(self.denoiser, plan, self.noise, self.cond, wrap)

        return lambda: torch.autograd.grad(sample().square().mean(), [self.noise, self.embeds])


def measure(run: Callable[[], None], args: argparse.Namespace) -> dict[str, Any]:
    """Return median seconds and the peak in bytes beyond what lived before, or why it failed."""
    try:
        if args.device == "cuda":
            torch.cuda.empty_cache()
        peak = peak_on(torch.device(args.device), run)
        times = [seconds(run, args.device) for _ in range(args.repeats)]
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    return {"seconds": statistics.median(times), "peak_bytes": peak}


def describe_machine(device: str) -> dict[str, Any]:
    described = stamp(device)
    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        described["machine"] |= {
            "gpu_memory_gib": round(total / 2**30, 1),
            "cuda": torch.version.cuda,
        }
    return described


def plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    workloads = {title: rows for title, rows in result["workloads"].items() if rows}
    figure, axes = plt.subplots(
        2, len(workloads), figsize=(3.6 * len(workloads), 6), layout="constrained", squeeze=False
    )
    for column, (title, rows) in zip(axes.T, workloads.items(), strict=True):
        for method in METHODS:
            done = [row for row in rows if row["method"] == method and "seconds" in row]
            steps = [row["steps"] for row in done]
            column[0].plot(steps, [row["seconds"] for row in done], marker="o", label=method)
            peaks = [row["peak_bytes"] / 2**30 for row in done]
            column[1].plot(steps, peaks, marker="o", label=method)
        column[0].set(title=title, xscale="log", yscale="log", ylabel="seconds")
        column[1].set(xscale="log", yscale="log", xlabel="sampling steps", ylabel="peak GiB")
        for axis in column:
            axis.set_xticks(result["settings"]["steps"], result["settings"]["steps"], minor=False)
            axis.set_xticks([], minor=True)
    axes[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def write(result: dict[str, Any], folder: Path) -> None:
    """Write after each row, so that a run cut short is not lost."""
    (folder / "gpu.json").write_text(json.dumps(result, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["sd15", "sdxl"])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 25, 50, 100])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--memory_budget", default="16GiB", help="of exact_budget")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument(
        "--budget_seconds", type=float, help="leave out what would not end in so many seconds"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output_dir", type=Path, default=Path("benchmark-results"))
    args = parser.parse_args(argv)

    started = time.monotonic()
    settings = {k: v for k, v in vars(args).items() if k != "output_dir"}
    result: dict[str, Any] = {
        **describe_machine(args.device), "settings": settings, "calls": {}, "workloads": {},
        "left_out": [],
    }  # fmt: skip
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for name in args.models:
        for resolution in MODELS[name].resolutions:
            workload = Workload(name, resolution, args)
            measure(workload.gradient("exact", 1, args.memory_budget), args)  # warm-up
            title = f"{name} {resolution}²"
            result["calls"][title] = {
                "forward": measure(workload.call(with_product=False), args),
                "forward_and_product": measure(workload.call(with_product=True), args),
            }
            rows = result["workloads"].setdefault(title, [])
            per_step: dict[str, float] = {}
            for steps in args.steps:
                for method in args.methods:
                    began = time.monotonic()
                    expected = began - started + steps * per_step.get(method, 0.0)
                    if args.budget_seconds is not None and expected > args.budget_seconds:
                        result["left_out"].append([name, resolution, method, steps])
                        write(result, args.output_dir)
                        continue
                    found = measure(workload.gradient(method, steps, args.memory_budget), args)
                    per_step[method] = (time.monotonic() - began) / steps
                    rows.append({"method": method, "steps": steps, **found})
                    print(name, resolution, rows[-1], flush=True)
                    write(result, args.output_dir)
            del workload
    if any(result["workloads"].values()):
        plot(result, args.output_dir / "gpu.png")


if __name__ == "__main__":
    main()
