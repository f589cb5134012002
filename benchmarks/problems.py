"""What gradients are taken of: the embedded model and a Gaussian mixture, on one grid of steps.

Every contestant solves the same ODE on the same grid, in AdjointDPM's coordinates
``dy/dr = eps(alpha y, t(r))`` with ``y = x / alpha`` and ``r = sigma / alpha``, by Euler (which is
DDIM) or Heun. The objective is linear, ``<cotangent, sample>``, so that it costs nobody anything.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import adjointdpm as adp
from adjointdpm.assets import load_default
from adjointdpm.form import Point
from adjointdpm.objectives import ClassifierLogProbability
from adjointdpm.pipelines import encode_prompt, from_pipeline
from adjointdpm.solvers import Form

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from mixtures import GaussianMixture

NOISE_FORM = Form.named("noise")
CALLS_A_STEP = {"euler": 1, "heun": 2}
GUIDANCE_SCALE = 3.0
PROMPT, TARGET = "thing, style noto", "rocket"
COMPONENTS, DIM, MIXTURE_BATCH = 64, 16, 64


def plainly(denoiser: nn.Module, x: Tensor, t: float, **cond: Any) -> Tensor:
    return denoiser(x, t, **cond)


@dataclass(frozen=True)
class Problem:
    """One network, one grid, one objective.

    Args:
        name: one of `PARTS`.
        solver: ``euler`` or ``heun``.
        denoiser: whose weights require grad where they are targets.
        plan: the sampler on the grid.
        points: the grid, from noise to image; it ends with a little noise left, so that every
            method may call the network at both ends.
        noise: (batch, ...) requires grad.
        cond: conditioning; what requires grad is a target.
        cotangent: gradient of the objective with respect to the sample.
    """

    name: str
    solver: str
    denoiser: adp.Denoiser
    plan: adp.Plan
    points: Sequence[Point]
    noise: Tensor
    cond: dict[str, Tensor]
    cotangent: Tensor

    @cached_property
    def groups(self) -> dict[str, list[Tensor]]:
        """The tensors whose gradients are wanted, by name."""
        cond = {name: [t] for name, t in self.cond.items() if t.requires_grad}
        weights = [weight for weight in self.denoiser.parameters() if weight.requires_grad]
        return {"noise": [self.noise], **cond, **({"weights": weights} if weights else {})}

    @cached_property
    def targets(self) -> list[Tensor]:
        return [tensor for group in self.groups.values() for tensor in group]

    @property
    def ratios(self) -> list[float]:
        """The grid in r = sigma / alpha."""
        return [NOISE_FORM.tau(point) for point in self.points]

    @property
    def start(self) -> Tensor:
        """The state y at the start."""
        return self.noise * (float(self.plan.table[0, 0]) / self.points[0].alpha)

    def drift(self, y: Tensor, point: Point, call: Callable[..., Tensor] = plainly) -> Tensor:
        """Return dy/dr at a point of the grid."""
        a, b = NOISE_FORM.drift(self.denoiser.prediction_type, point)
        x = point.alpha * y
        output = call(self.denoiser, x, point.t, **self.cond)
        return b * output if a == 0 else a * x + b * output

    def gradients(self, sample: Tensor) -> list[Tensor | None]:
        """Return the gradients of the objective in the order of `targets`."""
        return list(torch.autograd.grad(sample, self.targets, self.cotangent, allow_unused=True))

    def flat(self, gradients: Sequence[Any]) -> dict[str, Tensor]:
        """Return one float64 vector for each target."""
        found = iter(gradients)

        def vector(tensor: Tensor) -> Tensor:
            gradient = next(found)
            if gradient is None:
                return torch.zeros(tensor.numel(), dtype=torch.float64)
            return torch.as_tensor(gradient).detach().cpu().double().flatten()

        return {name: torch.cat([vector(t) for t in group]) for name, group in self.groups.items()}

    def on(self, plan: adp.Plan) -> Problem:
        """Return the problem with another plan."""
        return replace(self, plan=plan)


def make(
    name: str, solver: str, calls: int, batch_size: int, dtype: torch.dtype, device: str
) -> Problem:
    """Return a problem whose sampler calls the network ``calls`` times."""
    denoiser, noise, cond, cotangent = PARTS[name](batch_size, device)
    denoiser = copy.deepcopy(denoiser).to(dtype).requires_grad_(name != "inputs")
    schedule, prediction_type = denoiser.schedule, denoiser.prediction_type
    steps = max(calls // CALLS_A_STEP[solver], 1)
    points = adp.solvers.grid(schedule, steps, final_sigmas_type="sigma_min")
    plan = adp.solvers.build(
        solver, schedule, steps, prediction_type=prediction_type, form="noise",
        final_sigmas_type="sigma_min",
    )  # fmt: skip
    cond = {
        key: value.to(dtype).requires_grad_(not key.startswith("negative_"))
        for key, value in cond.items()
    }
    noise, cotangent = noise.to(dtype).requires_grad_(), cotangent.to(dtype)
    return Problem(name, solver, denoiser, plan, points, noise, cond, cotangent)


Parts = tuple[adp.Denoiser, Tensor, dict[str, Tensor], Tensor]


@lru_cache(maxsize=1)
def _embedded(batch_size: int, device: str) -> Parts:
    """The embedded model with guidance; the objective is a classifier's log-probability.

    It is linearised at a picture that the model draws, since the decoder and the classifier would
    add the same to the cost of every method.
    """
    default = load_default(device=device)
    sampler, decode = from_pipeline(default.pipeline, 20, GUIDANCE_SCALE)
    cond = encode_prompt(default.pipeline, PROMPT)
    cond = {name: value.repeat(batch_size, 1, 1) for name, value in cond.items()}
    noise = _normal((batch_size, 4, 16, 16), device)
    with torch.no_grad():
        sample = sampler(noise, **cond)
    sample.requires_grad_()
    score = ClassifierLogProbability(default.classifier, TARGET)(decode(sample)).sum()
    return sampler.denoiser, noise, cond, torch.autograd.grad(score, sample)[0]


class MixtureNetwork(nn.Module):
    """The exact noise prediction for a Gaussian mixture, whose means are the weights."""

    def __init__(self, mixture: GaussianMixture, schedule: adp.Schedule) -> None:
        super().__init__()
        self.mixture, self.schedule = mixture, schedule
        self.means = nn.Parameter(mixture.means.clone())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.predict(x, self.schedule.alpha(t), self.schedule.sigma(t))

    def predict(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self.mixture.predict(x, alpha, sigma, "epsilon", self.means)


@lru_cache(maxsize=1)
def _mixture(batch_size: int, device: str) -> Parts:
    """A mixture of 64 Gaussians in 16 dimensions; the objective is a fixed random projection."""
    mixture = GaussianMixture(
        means=0.5 * _normal((COMPONENTS, DIM), device, seed=1).double(),
        stds=torch.linspace(0.4, 0.8, COMPONENTS, dtype=torch.float64, device=device),
        weights=torch.full((COMPONENTS,), 1 / COMPONENTS, dtype=torch.float64, device=device),
    )
    schedule = adp.Schedule.vp_linear()
    denoiser = adp.Denoiser(MixtureNetwork(mixture, schedule), schedule)
    noise, cotangent = (_normal((MIXTURE_BATCH, DIM), device, seed).double() for seed in (2, 3))
    return denoiser, noise, {}, cotangent


PARTS: dict[str, Callable[[int, str], Parts]] = {
    "embedded": _embedded,
    "inputs": _embedded,
    "mixture": _mixture,
}
"""``inputs`` is the embedded model with gradients for noise and prompt alone."""


def _normal(shape: tuple[int, ...], device: str, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
