"""Noise that is a function of a seed and a number, so that none of it needs to be stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class CounterNoise:
    """Standard-normal noise computed from (seed, number): any draw again, in any order.

    Pass it as ``generator=CounterNoise(0)`` to a `Sampler`: unlike a ``torch.Generator`` it has no
    state, so the same call gives the same sample, and reversing a run needs no stored noise.

    Args:
        seed: one seed for the batch, or a sequence of one a sample; a sample's noise then does not
            depend on the batch that it is in.
        device: where the numbers are made before they are moved to the latent's device. ``cpu``
            gives the same noise on every machine; ``None`` makes them where they are used.

    >>> noise, like = CounterNoise(7), torch.empty(2, 3)
    >>> torch.equal(noise(5, like), noise(5, like)), torch.equal(noise(5, like), noise(6, like))
    (True, False)
    """

    seed: int | Sequence[int]
    device: str | None = "cpu"

    def __call__(self, number: int, like: Tensor) -> Tensor:
        """Return draw ``number`` in the shape, dtype and device of ``like``."""
        if isinstance(self.seed, int):
            return self._normal(self.seed, number, like)
        if len(self.seed) != len(like):
            raise ValueError(f"give one seed a sample: {len(like)}, not {len(self.seed)}")
        return torch.stack(
            [self._normal(seed, number, row) for seed, row in zip(self.seed, like, strict=True)]
        )

    def _normal(self, seed: int, number: int, like: Tensor) -> Tensor:
        # Hashed together: seeds 0, 1 ... and numbers 0, 1 ... must not give related streams.
        state = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0]
        device = self.device or like.device
        generator = torch.Generator(device).manual_seed(int(state >> np.uint64(1)))
        noise = torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype)
        return noise.to(like.device)
