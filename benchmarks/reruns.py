"""What it costs to look whether calls that are run again give the same answer.

One gradient by `Exact` through a UNet, with and without the fingerprints and their comparison, in
turns; and the time of all that surrounds a call (stand-ins for weights, settings, hooks, buffers,
versions, the fingerprint) beside that of a gradient, with a call that does nothing. The first is a
difference of large numbers, the second has less noise and is an upper bound.

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
from stamp import stamp
from torch import Tensor

import adjointdpm as adp
from adjointdpm.recompute import Replay, fingerprint
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
    whole = statistics.median(without)
    parts = {name: _median(part, device) for name, part in _parts(network, noise.detach()).items()}
    return {
        "model": model,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "latent": list(noise.shape),
        "steps": steps,
        "seconds_checked": statistics.median(with_),
        "seconds_unchecked": whole,
        "share_by_difference": statistics.median(
            a / b - 1 for a, b in zip(with_, without, strict=True)
        ),
        "share_of_fingerprints": 2 * steps * parts["fingerprint"] / whole,
        "share_of_all": steps * (parts["first run"] + parts["run again"]) / whole,
        "seconds_of_parts": parts,
    }


def _parts(network: UNet2DConditionModel, latent: Tensor) -> dict[str, Callable[[], object]]:
    """Return what is done at each call, around one that does nothing."""
    replay, take = Replay(network), fingerprint.Fingerprints()
    for _ in range(3):
        _, record = replay.first(lambda: [latent], latent.device)
    settings, places = Settings(network), Places(network)
    weights = places.tensors()[0]

    def again() -> object:
        comparison = fingerprint.Comparison(lambda: "")
        return replay.again(record, lambda: [latent], comparison=comparison)

    return {
        "first run": lambda: replay.first(lambda: [latent], latent.device),
        "run again": again,
        "fingerprint": lambda: take([latent]),
        "settings": settings.now,
        "versions": lambda: versions(weights),
    }


def _median(action: Callable[[], object], device: torch.device) -> float:
    action()
    return statistics.median(_seconds(action, device) for _ in range(50))


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
    text = json.dumps({**stamp(args.device), **found}, indent=2)
    print(text)
    if args.output_dir is not None:
        (args.output_dir / f"reruns_{args.model}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
