"""Exactness, time and memory of gradients by architecture, network size and size of the data.

    python benchmarks/architectures.py                            # some minutes on one core
    python benchmarks/architectures.py --groups "DiT by width"    # part of it

Networks of diffusers with random weights, which neither cost nor exactness cares about; what the
continuous adjoint misses does, so its error is that of these networks only. Outputs are scaled to
standard deviation 1, as those of a trained network have. Gradients are for noise and conditioning,
of a fixed linear function of the sample. Time is CPU time over that of drawing the sample once;
peaks are those of tensors, beside those of one network call with its product; errors are against
autograd through the whole sampler, in float64 but for the largest networks. Rows are written to
architectures.json as they come, and those that are there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from core import CPU
from gpu import SCHEDULE
from random_networks import GROUPS, Subject
from stamp import stamp
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import adjointdpm as adp
from adjointdpm.memory import peak_on

IN_DOUBLE = 20e6
"""The number of weights up to which errors are those in float64."""
FLOW = adp.Schedule.from_config(
    {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": 1.0,
    }
)


class Scaled(nn.Module):
    """A network whose output has standard deviation 1 at its first input."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.scale = 1.0

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """Return the prediction."""
        output = self.network(x, t, **cond)
        return (output if isinstance(output, Tensor) else output.sample) * self.scale


class Checkpointed(nn.Module):
    """A denoiser's network whose calls torch runs again."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """Return the prediction."""
        return checkpoint(self.network, x, t, use_reentrant=False, **cond)


METHODS: dict[str, tuple[bool, adp.GradientMethod]] = {
    "Exact": (False, adp.Exact()),
    "checkpoints": (True, adp.Backprop()),
    "autograd": (False, adp.Backprop()),
    "ContinuousAdjoint": (False, adp.ContinuousAdjoint("ab2")),
}
"""Whether the network's calls are checkpointed, and the method."""


class Problem:
    """A sampler of a network, in one precision.

    Args:
        network: as samplers call it.
        subject: what it is given.
        steps: network calls.
        dtype: of all tensors.
    """

    def __init__(self, network: nn.Module, subject: Subject, steps: int, dtype: torch.dtype):
        draw = torch.Generator().manual_seed(0)

        def normal(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(1, *shape, generator=draw).to(dtype)

        self._network = network.to(dtype)
        self._schedule = FLOW if subject.flow else SCHEDULE
        self._prediction_type = "flow_prediction" if subject.flow else "epsilon"
        self.plan = adp.solvers.build(
            "ddim", self._schedule, steps, prediction_type=self._prediction_type
        )
        self._noise, self.direction = (normal(subject.shape) for _ in range(2))
        self._noise.requires_grad_()
        self._cond = {name: normal(shape).requires_grad_() for name, shape in subject.cond.items()}

    def _denoiser(self, checkpointed: bool = False) -> adp.Denoiser:
        network = Checkpointed(self._network) if checkpointed else self._network
        return adp.Denoiser(network, self._schedule, self._prediction_type)

    def call(self) -> Tensor:
        """Return what the network says at the start."""
        return self._denoiser()(self._noise, float(self.plan.timesteps[0]), **self._cond)

    def sample(self) -> None:
        """Draw the sample without a gradient."""
        with torch.no_grad():
            adp.Sampler(self._denoiser(), self.plan)(self._noise, **self._cond)

    def gradient(self, method: str) -> Tensor:
        """Return the gradients for noise and conditioning, as one vector."""
        checkpointed, chosen = METHODS[method]
        sampler = adp.Sampler(self._denoiser(checkpointed), self.plan, chosen)
        return self._pull_back(sampler(self._noise, **self._cond))

    def one_call(self) -> None:
        """Run one network call and its product."""
        self._pull_back(self.call())

    def _pull_back(self, sample: Tensor) -> Tensor:
        targets = [self._noise, *self._cond.values()]
        found = torch.autograd.grad(sample, targets, self.direction)
        return torch.cat([gradient.flatten() for gradient in found])


def cpu_seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(subject: Subject, steps: int, repeats: int) -> dict[str, Any]:
    """Return one row."""
    torch.manual_seed(0)
    network = Scaled(subject.build().eval().requires_grad_(False))
    problem = Problem(network, subject, steps, torch.float32)
    with torch.no_grad():
        network.scale = 1 / float(problem.call().std())
    runs = {name: partial(problem.gradient, name) for name in METHODS}
    beside = {"sample": problem.sample, "one call": problem.one_call}
    peaks = {name: peak_on(CPU, run) for name, run in {**beside, **runs}.items()}
    seconds: dict[str, list[float]] = {name: [] for name in (*beside, *runs)}
    for _ in range(repeats):
        for name, run in {**beside, **runs}.items():
            seconds[name].append(cpu_seconds(run))
    parameters = sum(weight.numel() for weight in network.parameters())
    if parameters < IN_DOUBLE:
        problem = Problem(network, subject, steps, torch.float64)
    gradients = {name: problem.gradient(name) for name in METHODS}
    exact = gradients.pop("autograd")
    noise = problem.direction.flatten()
    past = float(problem.plan.table[-1, 0]) * noise
    return {
        "parameters": parameters,
        "dtype": str(exact.dtype).removeprefix("torch."),
        "shape": subject.shape,
        "steps": steps,
        "seconds_a_call": statistics.median(seconds["sample"]) / steps,
        "time": {
            name: statistics.median(a / b for a, b in zip(times, seconds["sample"], strict=True))
            for name, times in seconds.items()
        },
        "peak_bytes": peaks,
        "error": {name: float((g - exact).norm() / exact.norm()) for name, g in gradients.items()},
        "cosine": {
            name: float(torch.cosine_similarity(g, exact, 0)) for name, g in gradients.items()
        },
        # Of the noise's gradient, what comes through the network: the rest is a known multiple.
        "through_the_network": float(
            (exact[: noise.numel()] - past).norm() / exact[: noise.numel()].norm()
        ),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, and write architectures.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = options.output_dir / "architectures.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    groups: dict[str, Any] = json.loads(path.read_text())["groups"] if path.is_file() else {}
    for group in options.groups:
        rows = groups.setdefault(group, {})
        for name, subject in GROUPS[group].items():
            if name not in rows:
                rows[name] = measure(subject, options.steps, options.repeats)
                content = {**stamp(), "groups": groups}
                path.write_text(json.dumps(content, indent=1) + "\n")
                print(group, name, json.dumps(rows[name]), flush=True)


if __name__ == "__main__":
    main()
