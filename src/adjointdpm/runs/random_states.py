"""The states of the random generators of a process, as tensors that a checkpoint can hold."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def random_states() -> dict[str, Tensor]:
    """Return the states of torch, on the CPU and on GPUs in use, of Python and of NumPy.

    Each has the same shape in every process and at any time.
    """
    version, words, gauss = random.getstate()
    _, keys, *rest = np.random.get_state(legacy=True)
    states = {
        "cpu": torch.get_rng_state(),
        "python": _numbers([version, *words, gauss is not None, gauss or 0.0]),
        "numpy": _numbers([*keys, *rest]),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: Mapping[str, Tensor]) -> None:
    """Bring the generators to where `random_states` found them."""
    torch.set_rng_state(states["cpu"])
    version, *words, has_gauss, gauss = states["python"].tolist()
    random.setstate((int(version), tuple(map(int, words)), gauss if has_gauss else None))
    *keys, position, has_gauss, gauss = states["numpy"].tolist()
    np.random.set_state(
        ("MT19937", np.array(keys, dtype=np.uint32), int(position), int(has_gauss), gauss)
    )
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _numbers(values: list[float]) -> Tensor:
    """Return words of 32 bits and normal draws, both exact in float64."""
    return torch.tensor([float(value) for value in values], dtype=torch.float64)
