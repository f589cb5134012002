"""Numbers that are looked at together, so that the host waits for the device once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


class Judge(Protocol):
    """Something to look at when all is done."""

    def numbers(self) -> Tensor | None:
        """Return numbers on the device; None for nothing to look at."""

    def judge(self, found: Sequence[float]) -> None:
        """Raise if the numbers are not as they should be."""


def judge_together(judges: Iterable[Judge]) -> None:
    """Read the numbers of all, in one synchronisation, and let each judge its own."""
    pairs = [(judge, numbers) for judge in judges if (numbers := judge.numbers()) is not None]
    # Tensors without memory, as a prediction of cost has them, have nothing to look at.
    if not pairs or any(isinstance(numbers, FakeTensor) for _, numbers in pairs):
        return
    device = pairs[0][1].device
    values = torch.cat(
        [
            n.to(device, torch.float64 if n.dtype == torch.float64 else torch.float32)
            for _, n in pairs
        ]
    ).tolist()
    start = 0
    for judge, numbers in pairs:
        judge.judge(values[start : start + len(numbers)])
        start += len(numbers)
