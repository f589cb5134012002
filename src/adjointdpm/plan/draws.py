"""The noises drawn on the way: from a generator, or a function of a seed and a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..recompute import copied


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


class Draws:
    """The noises drawn on the way, in the order of the plan, each made when it is first needed.

    Args:
        like: a latent of the shape, dtype and device of a draw.
        generator: where the noise comes from; a list gives each sample of the batch its own, and
            a `CounterNoise` computes any draw from its number.
        given: (num_draws, batch, ...) noises to use in place of drawing.
    """

    def __init__(
        self,
        like: Tensor,
        generator: torch.Generator | list[torch.Generator] | CounterNoise | None = None,
        given: Tensor | None = None,
    ) -> None:
        if isinstance(generator, list) and len(generator) not in (1, len(like)):
            raise ValueError(f"give one generator a sample: {len(like)}, not {len(generator)}")
        self._like, self._generator, self.given = like, generator, given
        self._next = 0
        self._states: list[list[torch.Generator]] | None = None

    def record(self) -> None:
        """Note the generator's state before each draw, so that any draw can be asked for again."""
        self._states = []

    def __call__(self, index: int) -> Tensor:
        """Return draw ``index``; indices must ascend where a generator with a state draws."""
        if self.given is not None:
            return self.given[index]
        if isinstance(self._generator, CounterNoise):
            return self._generator(index, self._like)
        if index < self._next:
            if self._states is None:
                raise ValueError(f"draw {index} was asked for after draw {self._next - 1}")
            return self._draw([copied(generator) for generator in self._states[index]])
        while True:
            if self._states is not None:
                self._states.append([copied(generator) for generator in self._generators()])
            noise = self._draw(self._generator)
            self._next += 1
            if self._next > index:
                return noise

    def _draw(self, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
        like = self._like
        if not isinstance(generator, list):
            return _normal(generator, like)
        if len(generator) == 1:
            return _normal(generator[0], like)
        rows = like.split(1)
        return torch.cat([_normal(own, row) for own, row in zip(generator, rows, strict=True)])

    def _generators(self) -> list[torch.Generator]:
        if isinstance(self._generator, list):
            return self._generator
        if isinstance(self._generator, torch.Generator):
            return [self._generator]
        device = self._like.device
        if device.type == "cpu":
            return [torch.default_generator]
        own = torch.Generator(device)
        own.set_state(torch.get_device_module(device).get_rng_state(device))
        return [own]


def _normal(generator: torch.Generator | None, like: Tensor) -> Tensor:
    """Return noise in the shape, dtype and device of ``like``, made where the generator is."""
    device = like.device if generator is None else generator.device
    noise = torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype)
    return noise.to(like.device)
