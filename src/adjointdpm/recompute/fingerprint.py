"""A few numbers that tell whether a call gave the same answer when it was run again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .environment import without_autocast

SIGNS = 4
"""How many vectors of signs a tensor is multiplied with from either side."""

TOLERANCES = {
    torch.float64: 1e-8,
    torch.float32: 5e-4,
    torch.bfloat16: 2e-2,
    torch.float16: 5e-3,
}
"""The largest relative change of an answer that is taken for rounding, by the coarsest dtype."""


def coarsest(*dtypes: torch.dtype | None) -> torch.dtype:
    """Return the floating-point dtype with the fewest digits; float64 where there is none."""
    known = [dtype for dtype in dtypes if dtype in TOLERANCES]
    return max(known, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float64)


def tolerance_of(dtype: torch.dtype) -> float:
    """Return the tolerance where a dtype is the coarsest that a call computes in."""
    return TOLERANCES.get(dtype, 0.0)


class Fingerprints:
    """Takes fingerprints of tensors: products with random signs from both sides, and the norm.

    With u and v random signs, ``u' Y v`` of a change of Y has the change's norm as its root mean
    square: 16 such numbers, and the norm of Y itself, tell how large a change is without a copy
    of Y. All stays on the device, and nothing is waited for.
    """

    def __init__(self) -> None:
        self._signs: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the fingerprint of an answer, one row for each of its tensors of real numbers."""
        found = [self._of(x.detach()) for x in tensors if x.is_floating_point() and x.numel()]
        if not found:
            return torch.zeros(0, SIGNS**2 + 1)
        dtype = max((x.dtype for x in found), key=lambda dtype: dtype.itemsize)
        return torch.stack([x.to(found[0].device, dtype) for x in found])

    def _of(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        columns = math.prod(x.shape[-2:]) if x.ndim > 3 else x.shape[-1] if x.ndim else 1
        matrix = x.reshape(-1, columns).to(dtype)
        with without_autocast(x.device):
            left = self._rows(len(matrix), matrix) @ matrix
            projected = left @ self._rows(columns, matrix).T
        return torch.cat([projected.flatten(), torch.linalg.vector_norm(matrix)[None]])

    def _rows(self, length: int, like: Tensor) -> Tensor:
        key = length, like.device, like.dtype
        if key not in self._signs:
            # Computed and not drawn: random states belong to the network.
            at = torch.arange(SIGNS * length, device=like.device)
            mixed = (at + 1) * 0x9E3779B1
            mixed = (mixed ^ (mixed >> 15)) * 0x85EBCA77
            bits = ((mixed ^ (mixed >> 13)) >> 7) & 1
            self._signs[key] = (bits * 2 - 1).to(like.dtype).reshape(SIGNS, length)
        return self._signs[key]


def change(first: Tensor, again: Tensor) -> Tensor:
    """Return how much an answer changed, relative to its norm, as a tensor; from fingerprints.

    Where both are not finite there is nothing to compare, and the finite check speaks.
    """
    difference = (again - first).abs()
    size = first[:, -1].clamp_min(torch.finfo(first.dtype).tiny)
    projected = difference[:, :-1].square().mean(1).sqrt()
    relative = torch.maximum(projected, difference[:, -1]) / size
    both = ~(torch.isfinite(first).all(1) | torch.isfinite(again).all(1))
    return torch.where(both, 0.0, relative).nan_to_num(nan=math.inf).amax()


@dataclass
class Comparison:
    """Changes of answers in one reverse sweep, looked at together at its end.

    Args:
        explain: returns what may be the cause, and what helps.
    """

    explain: Callable[[], str]
    _changes: list[Tensor] = field(default_factory=list)
    _what: list[tuple[str, float]] = field(default_factory=list)

    def add(self, what: str, first: Tensor, again: Tensor, tolerance: float) -> None:
        """Note the fingerprints of a call.

        Args:
            what: the call, for the message.
            first: of its answer.
            again: of its answer when it was run again.
            tolerance: the largest relative change that is taken for rounding.
        """
        if first.shape == again.shape and not (first.is_meta or again.is_meta or not len(first)):
            self._changes.append(change(first, again))
            self._what.append((what, tolerance))

    def raise_if_changed(self) -> None:
        """Raise RerunError if an answer was another than the first time."""
        if not self._changes:
            return
        device = self._changes[0].device
        changes = torch.stack([x.to(device, torch.float32) for x in self._changes]).tolist()
        what = self._what
        self._changes, self._what = [], []
        wrong = [
            (name, found)
            for found, (name, tolerance) in zip(changes, what, strict=True)
            if not found <= tolerance
        ]
        if wrong:
            name, found = max(wrong, key=lambda pair: pair[1])
            raise RerunError(
                f"{name} gave another answer when it was run again for the gradient: it differs by "
                f"{found:.1e} of its norm ({len(wrong)} of {len(changes)} calls differ), so the "
                f"gradient would be wrong. {self.explain()}"
            )


class RerunError(RuntimeError):
    """A network call could not be run again as it was, so that a gradient would be wrong."""
