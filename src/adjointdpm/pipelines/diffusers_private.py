"""What is used of diffusers' pipelines that their authors do not promise to keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def execution_device(pipe: Any) -> torch.device:
    """Return the device on which a pipeline runs its parts, also where they are offloaded."""
    device: torch.device = pipe._execution_device
    return device


def announced_steps(pipe: Any) -> int | None:
    """Return how many steps the present call of a pipeline said it would take, if it did."""
    return getattr(pipe, "_num_timesteps", None)


def packs_latents(pipe: Any) -> bool:
    """Say whether a pipeline takes and returns latents packed into tokens, as Flux does."""
    return hasattr(pipe, "_pack_latents")


def cogvideox_rotary_embeddings(pipe: Any) -> Callable[..., Any]:
    """Return the method of CogVideoX that makes rotary embeddings, not bound to the pipeline."""
    method: Callable[..., Any] = type(pipe)._prepare_rotary_positional_embeddings
    return method
