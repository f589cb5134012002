"""Whether another kernel's rounding is told from a change, when network calls are run again.

Gradients by `Exact` through the embedded model, with guidance, in float32 and under autocast.
Between the first run of a call and the second, one of these happens:

- nothing;
- ordinary rounding: each call draws its memory format, its number of threads and its kernel of
  attention, so that no two runs of one call sum in the same order;
- a change that leaves no trace: weights scaled by 1 + 1e-3, all of them or those of one layer,
  through ``.data``.

Counted is how many gradients raise `RerunError`; the largest relative change of an answer is noted.

    python benchmarks/rounding.py --output_dir docs/benchmarks
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from stamp import stamp
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import adjointdpm as adp
from adjointdpm.recompute import RerunError, fingerprint

STEPS = 4
CHANGE = 1e-3


class Varying(nn.Module):
    """Runs a network in another order of summation each time, once it is told to."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.chance = type("Chance", (), {"varies": False})()

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Any:
        if not self.chance.varies:
            return self.network(x, t, **cond)
        threads, backend = random.choice([1, 2]), random.choice([SDPBackend.MATH, None])
        formats = [torch.contiguous_format, torch.channels_last]
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with sdpa_kernel([backend] if backend else list(SDPBackend.__members__.values())[1:5]):
                return self.network(x.contiguous(memory_format=random.choice(formats)), t, **cond)
        finally:
            torch.set_num_threads(before)


def scale_all(network: nn.Module) -> None:
    """Scale all weights."""
    for weight in network.parameters():
        weight.data.mul_(1 + CHANGE)


def scale_one(network: nn.Module) -> None:
    """Scale the weights of one layer."""
    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    random.choice(layers).weight.data.mul_(1 + CHANGE)


WHAT: dict[str, Callable[[nn.Module], None] | None] = {
    "nothing": None,
    "rounding": None,
    "all weights by 1e-3": scale_all,
    "one layer by 1e-3": scale_one,
}


def measure(dtype: torch.dtype, what: str, count: int) -> dict[str, Any]:
    """Return how many of some gradients raise, and the largest changes that were seen."""
    raised, found = 0, []
    numbers = fingerprint.Comparison.numbers

    def noting(self: fingerprint.Comparison) -> Tensor | None:
        values = numbers(self)
        found.append(0.0 if values is None else float(values.max()))
        return values

    fingerprint.Comparison.numbers = noting  # type: ignore[method-assign]
    pipe = adp.load_default().pipeline
    pipe.unet.requires_grad_(False)
    own = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    words = {k: v.detach() for k, v in adp.encode_prompt(pipe, "car").items()}
    sampler, _ = adp.from_pipeline(pipe, STEPS, 4.0)
    network = sampler.denoiser.network = Varying(sampler.denoiser.network)
    network.chance.varies = what == "rounding"
    try:
        for seed in range(count):
            random.seed(seed)
            torch.manual_seed(seed)
            pipe.unet.load_state_dict(own)
            noise = torch.randn(1, 4, 16, 16, requires_grad=True)
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                sample = sampler(noise, **words)
            if (change := WHAT[what]) is not None:
                change(pipe.unet)
            try:
                sample.square().sum().backward()
            except RerunError:
                raised += 1
    finally:
        fingerprint.Comparison.numbers = numbers  # type: ignore[method-assign]
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "what": what,
        "gradients": count,
        "raised": raised,
        "median_change": sorted(found)[len(found) // 2],
        "largest_change": max(found),
        "tolerance": fingerprint.TOLERANCES[dtype],
    }


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--output_dir", type=Path)
    args = parser.parse_args()
    rows = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for what in WHAT:
            rows.append(measure(dtype, what, args.count))
            print(rows[-1], flush=True)
    content = {**stamp(), "rows": rows}
    if args.output_dir is not None:
        (args.output_dir / "rounding.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
