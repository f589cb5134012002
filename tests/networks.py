"""A small network with everything that the gradient methods must cope with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class SmallNetwork(nn.Module):
    """Two layers on (batch, 4), conditioned by ``emb``, with a layer that is never used."""

    def __init__(self, dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16, dtype=dtype)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(16, 4, dtype=dtype)
        self.unused = nn.Linear(2, 2, dtype=dtype)

    def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
        t = (t / (1 + t)).to(x.dtype)[:, None]
        hidden = torch.tanh(self.first(torch.cat([x, t, emb.expand(len(x), -1)], 1)))
        if extra is not None:
            hidden = hidden * extra["gain"][0]
        return self.second(self.dropout(hidden))

    @property
    def used(self) -> list[nn.Parameter]:
        return [*self.first.parameters(), *self.second.parameters()]


class Counter:
    """Counts from outside: a number on a network is put back when a call is run again."""

    def __init__(self) -> None:
        self.calls = 0
        self.products = 0


class CountingNetwork(SmallNetwork):
    """Counts how often it is run, again or for the first time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counter = Counter()

    def forward(self, *args: Any, **cond: Any) -> Tensor:
        self.counter.calls += 1
        return super().forward(*args, **cond)


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Return |value - expected| / |expected|."""
    value, expected = value.detach(), expected.detach()
    return float((value - expected).norm() / expected.norm().clamp_min(1e-300))


def some_noise(batch: int = 3, *, requires_grad: bool = True) -> Tensor:
    """Return noise that fits `SmallNetwork`."""
    return torch.randn(batch, 4, dtype=torch.float64, requires_grad=requires_grad)


def some_emb(rows: int = 3) -> Tensor:
    """Return its conditioning."""
    return torch.randn(rows, 3, dtype=torch.float64, requires_grad=True)


def objective(sample: Tensor) -> Tensor:
    """Return a number whose gradient and curvature are nowhere constant."""
    return (sample**3).sum() + sample.sin().sum()
