"""The way of a sampling run: its latents and what the network made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .denoiser import Denoiser
from .gradients import Collect
from .prediction import to_sample


@dataclass(frozen=True)
class Trajectory:
    """Where a sampling run passed; all tensors but the times are differentiable.

    Args:
        timesteps: (num_calls,) the network's time at every call, float64.
        latents: (num_calls, batch, ...) the network's inputs, ``alpha x_0 + sigma eps``.
        pred_original_sample: (num_calls, batch, ...) the clean samples that the denoiser predicted
            there, with guidance and clipping.
        sample: (batch, ...) where the run ended.
    """

    timesteps: Tensor
    latents: Tensor
    pred_original_sample: Tensor
    sample: Tensor


def states_of(denoiser: Denoiser) -> Collect:
    """Return what collects the latent and the predicted clean sample of every network call."""
    schedule, prediction_type = denoiser.schedule, denoiser.prediction_type

    def states(
        k: int, t: float | Tensor, x: Tensor, output: Tensor, answer: Any
    ) -> tuple[Tensor, Tensor]:
        of_x, of_output = to_sample(prediction_type, schedule.alpha(t), schedule.sigma(t))
        return x, of_x * x + of_output * output

    return states
