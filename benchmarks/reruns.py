"""What it costs to look whether calls that are run again give the same answer.

One gradient by `Exact` through a UNet, with and without the fingerprints and their comparison, in
turns; and the times of the parts beside that of a call: the fingerprint, the settings, the
versions of the weights.

    python benchmarks/reruns.py --model sd15 --output_dir docs/benchmarks    # on a GPU
    python benchmarks/reruns.py --model toy --steps 4
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from diffusers import UNet2DConditionModel
from gpu import MODELS, SCHEDULE
from torch import Tensor

import adjointdpm as adp
from adjointdpm.recompute import fingerprint, replay
from adjointdpm.recompute.settings import Settings
from adjointdpm.recompute.tensors import Places, versions


@contextmanager
def unchecked() -> Iterator[None]:
    """Take no fingerprints in a block."""
    nothing = torch.zeros(0, fingerprint.SIGNS**2 + 1)
    with mock.patch.object(fingerprint.Fingerprints, "__call__", return_value=nothing):
        yield


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(
    model: str, steps: int, size: int, batch: int, repeats: int, device: torch.device
) -> dict[str, object]:
    """Return the times of gradients, and of the parts of what is looked at."""
    torch.manual_seed(0)
    config = MODELS[model].config
    network = UNet2DConditionModel(**config).to(device).eval().requires_grad_(False)
    plan = adp.solvers.build("ddim", SCHEDULE, steps)
    sampler = adp.Sampler(adp.Denoiser(network, SCHEDULE), plan, adp.Exact())
    noise = torch.randn(batch, 4, size, size, device=device, requires_grad=True)
    words = torch.randn(batch, 77, config["cross_attention_dim"], device=device)

    def gradient() -> Tensor:
        return torch.autograd.grad(sampler(noise, encoder_hidden_states=words).sum(), noise)[0]

    gradient()
    with_, without = [], []
    for _ in range(repeats):
        with_.append(_seconds(gradient, device))
        with unchecked():
            without.append(_seconds(gradient, device))
    settings, places, take = Settings(network), Places(network), fingerprint.Fingerprints()
    latent, weights = noise.detach(), places.tensors()[0]
    take([latent])
    parts = {
        "fingerprint": lambda: take([latent]),
        "settings": settings.now,
        "versions": lambda: versions(weights),
        "places": lambda: replay.StandIns(places.tensors()[0]),
    }
    whole = statistics.median(without)
    return {
        "model": model,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "steps": steps,
        "seconds_checked": statistics.median(with_),
        "seconds_unchecked": whole,
        "share_by_difference": statistics.median(
            a / b - 1 for a, b in zip(with_, without, strict=True)
        ),
        # Twice a call: when it runs first, and again. Less noise than in a difference of wholes.
        "share_of_fingerprints": 2
        * steps
        * statistics.median(_seconds(parts["fingerprint"], device) for _ in range(50))
        / whole,
        "seconds_of_parts": {
            name: statistics.median(_seconds(part, device) for _ in range(50))
            for name, part in parts.items()
        },
    }


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="sd15")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output_dir", type=Path)
    args = parser.parse_args()
    found = measure(
        args.model, args.steps, args.size, args.batch, args.repeats, torch.device(args.device)
    )
    text = json.dumps(found, indent=2)
    print(text)
    if args.output_dir is not None:
        (args.output_dir / "reruns.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
