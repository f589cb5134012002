"""Small problems with a known answer: Gaussian mixtures, whose score is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adjointdpm import Plan, Schedule


@dataclass
class GaussianMixture:
    """A mixture of isotropic Gaussians as the data; its exact prediction at every noise level.

    The default is smooth enough for solvers to show their order at few steps.

    Use it as a network: ``mixture.network(schedule, prediction_type)(x, t, means=...)``.
    """

    means: Tensor = field(
        default_factory=lambda: torch.tensor(
            [[0.7, -0.35, 0.2], [-0.55, 0.65, -0.15], [0.15, -0.75, 0.7]], dtype=torch.float64
        )
    )
    stds: Tensor = field(default_factory=lambda: torch.tensor([0.9, 1.1, 1.0], dtype=torch.float64))
    weights: Tensor = field(
        default_factory=lambda: torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    )

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    def predict(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, prediction_type: str, means: Tensor | None
    ) -> Tensor:
        """Return the exact prediction for (batch, dim) x with (batch,) alpha and sigma."""
        means = self.means if means is None else means
        alpha, sigma = alpha[:, None, None], sigma[:, None, None]
        stds = self.stds[None, :, None]
        variance = alpha**2 * stds**2 + sigma**2
        residual = x[:, None] - alpha * means
        log_likelihood = -0.5 * (residual**2 / variance + variance.log()).sum(2)
        posterior = (self.weights.log() + log_likelihood).softmax(1)[:, :, None]
        sample = (posterior * (means + alpha * stds**2 / variance * residual)).sum(1)
        noise = (posterior * sigma * residual / variance).sum(1)
        return {
            "epsilon": noise,
            "sample": sample,
            "v_prediction": alpha[:, 0] * noise - sigma[:, 0] * sample,
            "flow_prediction": noise - sample,
        }[prediction_type]

    def network(self, schedule: Schedule, prediction_type: str) -> Any:
        """Return the exact denoiser as a network that a `Denoiser` takes."""

        def network(x: Tensor, t: Tensor, means: Tensor | None = None) -> Tensor:
            return self.predict(x, schedule.alpha(t), schedule.sigma(t), prediction_type, means)

        return network


PROCESSES: dict[str, Schedule] = {
    "vp": Schedule.vp_linear(),
    "cosine": Schedule.vp_cosine(),
    "sub_vp": Schedule.sub_vp(),
    "ve": Schedule.ve(sigma_min=0.1, sigma_max=10.0),
    "edm": Schedule.edm(sigma_min=0.1, sigma_max=10.0),
    "flow": Schedule.rectified_flow(),
    "scaled_linear": Schedule.from_config(
        {
            "num_train_timesteps": 1000,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
        }
    ),
}
"""One schedule of each family."""


def convergence_slope(steps: list[int], errors: list[float]) -> float:
    """Return the measured order: minus the slope of log error against log steps."""
    return float(-np.polyfit(np.log(steps), np.log(errors), 1)[0])


def dense_sample(plan: Plan, network: Any, noise: Tensor, draws: Tensor | None = None) -> Tensor:
    """Run a plan straight from its table: slow for long plans, but nothing can go wrong."""
    table = torch.from_numpy(np.array(plan.table))
    values = torch.zeros(table.shape[1], *noise.shape, dtype=noise.dtype)
    values[0] = noise
    if draws is not None:
        values[1 + plan.num_calls :] = draws
    for k, t in enumerate(plan.timesteps):
        x = torch.tensordot(table[k], values, 1)
        values[1 + k] = network(x, torch.full((len(x),), float(t), dtype=x.dtype))
    return torch.tensordot(table[-1], values, 1)
