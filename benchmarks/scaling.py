"""How memory and work of a gradient scale: with the network, with the latents, one for the other.

    python benchmarks/scaling.py    # minutes: a network call of each kind, no sampling run

UNets of 1 M to 200 M parameters and a transformer on video-shaped latents, with random weights,
which memory does not mind. `Sampler.cost` measures one call and runs each method on tensors without
memory; its peaks are within a per mille of measured ones (cost.json). Work is counted in network
calls, products and reruns, which no other process disturbs. Results go to scaling.json and
scaling.png in the output directory.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import LTXVideoTransformer3DModel, UNet2DConditionModel
from torch import Tensor, nn

import adjointdpm as adp

SCHEDULE = adp.Schedule.rectified_flow()
WIDTHS = ((32, 64), (128, 256), (416, 832))
STEPS = (10, 50)
METHODS: dict[str, Callable[[], adp.GradientMethod]] = {
    "Backprop()": adp.Backprop,
    "Exact()": adp.Exact,
    "Exact(max_latents=4)": lambda: adp.Exact(max_latents=4),
    "Reversible()": adp.Reversible,
}


class Unet(nn.Module):
    """A UNet with cross-attention."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=32, block_out_channels=widths, layers_per_block=2, cross_attention_dim=64,
            attention_head_dim=32, norm_num_groups=16,
            down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor, prompt: Tensor) -> Tensor:
        return self.unet(x, 1000 * t, prompt).sample


class VideoTransformer(nn.Module):
    """A transformer of LTX, small, on latents (batch, 16, frames, height, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = LTXVideoTransformer3DModel(
            in_channels=16, out_channels=16, num_attention_heads=4, attention_head_dim=32,
            cross_attention_dim=128, num_layers=4, caption_channels=64,
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor, prompt: Tensor) -> Tensor:
        frames, height, width = x.shape[2:]
        tokens = x.flatten(2).transpose(1, 2)
        mask = torch.ones(prompt.shape[:2], device=x.device)
        output = self.transformer(
            tokens, prompt, 1000 * t, mask, num_frames=frames, height=height, width=width,
            return_dict=False,
        )[0]  # fmt: skip
        return output.transpose(1, 2).unflatten(2, (frames, height, width))


def networks() -> Iterator[tuple[str, nn.Module, tuple[int, ...]]]:
    for widths in WIDTHS:
        yield "UNet", Unet(widths), (1, 4, 32, 32)
    for frames in (9, 33):
        yield "video transformer", VideoTransformer(), (1, 16, frames, 24, 32)


def measure(steps: list[int]) -> Iterator[dict[str, Any]]:
    """Yield a row for every network, number of steps and method."""
    for kind, network, shape in networks():
        network.requires_grad_(False)
        denoiser = adp.Denoiser(network, SCHEDULE, "flow_prediction")
        noise = torch.randn(shape, requires_grad=True)
        prompt = torch.randn(1, 16, 64, requires_grad=True)
        for count in steps:
            plan = adp.solvers.build("ddim", SCHEDULE, count, prediction_type="flow_prediction")
            for name, method in METHODS.items():
                cost = adp.Sampler(denoiser, plan, method()).cost(noise, prompt=prompt)
                yield {
                    "network": kind,
                    "parameters": sum(weight.numel() for weight in network.parameters()),
                    "latent": list(shape), "latent_bytes": noise.nbytes,
                    "num_inference_steps": count, "method": name,
                    "forward_calls": cost.forward_calls, "reruns": cost.recomputed_calls,
                    "products": cost.products, "peak_bytes": cost.peak_memory,
                    "graph_bytes": cost.call.graph_bytes,
                }  # fmt: skip
        print(f"{kind} {shape} done", flush=True)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    unets = [row for row in rows if row["network"] == "UNet"]
    for method, style in (("Backprop()", "--"), ("Exact()", "-")):
        for i, steps in enumerate(sorted({row["num_inference_steps"] for row in unets})):
            found = [r for r in unets if (r["method"], r["num_inference_steps"]) == (method, steps)]
            left.plot(
                [row["parameters"] for row in found], [row["peak_bytes"] / 2**20 for row in found],
                style, color=f"C{i}", marker="o", markersize=3, label=f"{method}, N = {steps}",
            )  # fmt: skip
    left.set(xscale="log", yscale="log", xlabel="parameters", ylabel="peak, MiB", title="UNets")
    left.legend(fontsize=7)
    most = max((r for r in rows if r["network"] != "UNet"), key=lambda r: r["latent_bytes"])
    video = [row for row in rows if row["latent"] == most["latent"]]
    steps = max(row["num_inference_steps"] for row in video)
    for row in video:
        if row["num_inference_steps"] == steps:
            calls = row["forward_calls"] + row["reruns"] + row["products"]
            right.plot(calls / steps, row["peak_bytes"] / 2**20, "o", label=row["method"])
    right.set(yscale="log", xlabel="calls, reruns and products, a step", ylabel="peak, MiB")
    right.set_title(f"video-shaped latents, N = {steps}")
    right.legend(fontsize=7)
    figure.savefig(path, dpi=100)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--num_inference_steps", type=int, nargs="+", default=list(STEPS))
    options = parser.parse_args(arguments)
    rows = list(measure(options.num_inference_steps))
    content = {
        "machine": f"{platform.machine()} CPU, tensors as they are counted",
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
    }
    options.output_dir.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    head = json.dumps(content, indent=1).removesuffix("\n}")
    (options.output_dir / "scaling.json").write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n')
    plot(rows, options.output_dir / "scaling.png")


if __name__ == "__main__":
    main()
