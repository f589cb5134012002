"""Timesteps of flow-matching pipelines: shifted towards the noise, more so for larger pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn


def dynamic_shift(scheduler: Any, sequence_length: int, max_shift: float = 1.15) -> float:
    """Return ``mu``, the shift of the timesteps, for a length of the transformer's sequence.

    It is linear in the length, as in Flux; why it grows is in arXiv 2403.03206, section 5.3.2.

    Args:
        scheduler: its config says between which lengths and shifts.
        sequence_length: number of latent tokens.
        max_shift: where the config does not say.
    """
    config = scheduler.config
    lengths = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    shifts = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    slope = (shifts[1] - shifts[0]) / (lengths[1] - lengths[0])
    return float(shifts[0] + slope * (sequence_length - lengths[0]))


def require_shape(sampler: nn.Module, shape: tuple[int, ...]) -> None:
    """Let a sampler refuse noise of another shape than the one its timesteps are shifted for.

    Args:
        sampler: called with the noise first.
        shape: of one sample's noise, without batch.
    """

    def check(sampler: nn.Module, args: tuple[Any, ...]) -> None:
        if args and tuple(args[0].shape[1:]) != shape:
            raise ValueError(
                f"the timesteps are shifted for noise of shape (batch, *{shape}), not "
                f"{tuple(args[0].shape)}. Give from_pipeline the size of the pictures (height, "
                "width, num_frames) as latent_shape was given it"
            )

    sampler.register_forward_pre_hook(check)


def linear_sigmas(num_inference_steps: int) -> np.ndarray:
    """Return the noise levels 1 … 1/N, which pipelines hand to ``set_timesteps`` to be shifted."""
    return np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
