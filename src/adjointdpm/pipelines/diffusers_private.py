"""What is used of diffusers that its authors do not promise to keep: all of it is in this file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def execution_device(pipe: Any) -> torch.device:
    """Return the device on which a pipeline runs its parts, also where they are offloaded."""
    device: torch.device = pipe._execution_device
    return device


def announced_steps(pipe: Any) -> int | None:
    """Return how many steps the present call of a pipeline said it would take, if it did."""
    return getattr(pipe, "_num_timesteps", None)


def hooks(module: nn.Module) -> dict[str, Any]:
    """Return the hooks that diffusers registered in one module, by their names."""
    registry = getattr(module, "_diffusers_hook", None)
    return {} if registry is None else dict(registry.hooks)


def cogvideox_rotary_embeddings(pipe: Any) -> Callable[..., Any]:
    """Return the method of CogVideoX that makes rotary embeddings, not bound to the pipeline."""
    method: Callable[..., Any] = type(pipe)._prepare_rotary_positional_embeddings
    return method
