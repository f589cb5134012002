"""Where latents are kept, and how many bytes a person allows."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

Kept = Callable[[], Tensor]
"""A latent that was put aside: call it to have it back where it was."""


def in_place(tensor: Tensor) -> Kept:
    """Keep a latent on its own device."""
    return lambda: tensor


def on_host(tensor: Tensor) -> Kept:
    """Keep a latent in host memory; one that is there already stays as it is.

    Both copies wait in the stream of the network calls, not on the host: from pinned memory a
    latent is back in far less time than a network call takes, so nothing is fetched ahead.
    """
    device = tensor.device
    if device.type == "cpu":
        return in_place(tensor)
    if device.type == "meta":
        shape, dtype = tensor.shape, tensor.dtype
        return lambda: torch.empty(shape, dtype=dtype, device=device)
    # Without pinned memory a copy that is not waited for may be read before it is there.
    pinned = device.type == "cuda"
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
    host.copy_(tensor, non_blocking=pinned)
    return lambda: host.to(device, non_blocking=pinned)


UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 1024, "MI": 1024**2, "GI": 1024**3}


def parse_bytes(budget: int | str) -> int:
    """Return a number of bytes from a number or from text with a unit.

    >>> parse_bytes("4GiB"), parse_bytes("1.5 MB"), parse_bytes(10)
    (4294967296, 1500000, 10)
    """
    match = re.fullmatch(r"\s*([0-9.]+)\s*([KMG]?I?)B?\s*", str(budget).upper())
    if match is None or match[2] == "I":
        raise ValueError(
            f"memory budget {budget!r} is not understood; write 4GiB, 500MB or a number"
        )
    return int(float(match[1]) * UNITS[match[2]])
