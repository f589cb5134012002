"""A few numbers that tell whether a call gave the same answer when it was run again."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from .environment import without_autocast
from .verdict import judge_together

SIGNS = 4
"""How many vectors of signs a tensor is multiplied with from either side."""

TOLERANCES = {
    torch.float64: 1e-8,
    torch.float32: 5e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}
"""The largest relative change of an answer that rounding can explain, by the coarsest dtype.

On an H200 and on CPUs answers came again to the last bit in every dtype. What is left room for is
another kernel's rounding: TF32 in float32, and the order of all sums of a UNet, which moved its
answer by 0.017 in bfloat16 (`benchmarks/rounding.py`).
"""


HARMLESS = 1e-5
"""A relative change up to which nobody asks whether it is rounding."""


NUM_REPEATS = 4
"""How often a call is run once more to tell a change from rounding."""


def coarsest(*dtypes: torch.dtype | None) -> torch.dtype:
    """Return the floating-point dtype with the fewest digits; float64 where there is none."""
    known = [dtype for dtype in dtypes if dtype in TOLERANCES]
    return max(known, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float64)


def tolerance_of(dtype: torch.dtype) -> float:
    """Return the tolerance where a dtype is the coarsest that a call computes in."""
    return TOLERANCES.get(dtype, 0.0)


@functools.lru_cache(maxsize=64)
def _nearest_divisor(count: int) -> int:
    """Return the largest divisor up to the square root: signs for a square one are the fewest."""
    return next(k for k in range(math.isqrt(count), 0, -1) if count % k == 0)


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
        if len(found) == 1:
            return found[0][None]
        dtype = max((x.dtype for x in found), key=lambda dtype: dtype.itemsize)
        return torch.stack([x.to(found[0].device, dtype) for x in found])

    def _of(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        matrix = x.reshape(-1, _nearest_divisor(x.numel())).to(dtype)
        with without_autocast(x.device):
            left = self._rows(len(matrix), matrix) @ matrix
            projected = left @ self._rows(matrix.shape[1], matrix).T
        return torch.cat([projected.flatten(), torch.linalg.vector_norm(matrix)[None]])

    def _rows(self, length: int, like: Tensor) -> Tensor:
        key = length, like.device, like.dtype
        if key not in self._signs:
            # Computed and not drawn: random states belong to the network.
            # In place, since the graph of the first call is alive at the same time.
            mixed = torch.arange(1, SIGNS * length + 1, device=like.device).mul_(0x9E3779B1)
            mixed.bitwise_xor_(mixed >> 15).mul_(0x85EBCA77)
            mixed.bitwise_xor_(mixed >> 13)
            signs = mixed.bitwise_right_shift_(7).bitwise_and_(1).mul_(2).sub_(1)
            self._signs[key] = signs.to(like.dtype).reshape(SIGNS, length)
        return self._signs[key]


def changes(first: Tensor, again: Tensor) -> Tensor:
    """Return how much tensors changed, relative to their norms, from rows of fingerprints.

    Where both are not finite there is nothing to compare, and the finite check speaks.
    """
    difference = (again - first).abs()
    size = first[:, -1].clamp_min(torch.finfo(first.dtype).tiny)
    projected = difference[:, :-1].square().mean(1).sqrt()
    relative = torch.maximum(projected, difference[:, -1]) / size
    both = ~(torch.isfinite(first).all(1) | torch.isfinite(again).all(1))
    return torch.where(both, 0.0, relative).nan_to_num(nan=math.inf)


@dataclass
class Comparison:
    """Answers of calls that were run again beside their first ones, looked at when all are there.

    A change above the tolerance of its dtype is another answer. A smaller one may be rounding, of a
    kernel that is not deterministic or of another one than the first time. The call that changed
    most is run a few times more then, as it ran first. If it always answers alike, and not as the
    first time, it is no rounding.

    Args:
        explain: returns what may be the cause, and what helps.
        keeps_inputs: whether any call can be run once more, and not the last alone: their inputs
            are alive anyway.
    """

    explain: Callable[[], str]
    keeps_inputs: bool = False
    _first: list[Tensor] = field(default_factory=list)
    _again: list[Tensor] = field(default_factory=list)
    _what: list[tuple[str, float]] = field(default_factory=list)
    _repeats: dict[int, Callable[[], Tensor]] = field(default_factory=dict)

    def add(
        self,
        what: str,
        first: Tensor,
        again: Tensor,
        tolerance: float,
        repeat: Callable[[], Tensor] | None = None,
    ) -> None:
        """Note the fingerprints of a call.

        Args:
            what: the call, for the message.
            first: of its answer.
            again: of its answer when it was run again.
            tolerance: the largest relative change that is taken for rounding.
            repeat: returns that of its answer when it is run once more as it ran first; None where
                its input is not to the last bit what it was.
        """
        if first.shape == again.shape and not (first.is_meta or again.is_meta):
            self._first.append(first)
            self._again.append(again)
            self._what += [(what, tolerance)] * len(first)
            if not self.keeps_inputs:
                self._repeats.clear()
            if repeat is not None and len(first):
                self._repeats[len(self._first) - 1] = repeat

    def raise_if_changed(self) -> None:
        """Look at the answers now."""
        judge_together([self])

    def numbers(self) -> Tensor | None:
        """Return how much each answer changed, on the device."""
        if not self._what:
            return None
        device = self._first[0].device
        dtype = max((x.dtype for x in self._first), key=lambda dtype: dtype.itemsize)
        first, again = (
            torch.cat([x.to(device, dtype) for x in rows]) for rows in (self._first, self._again)
        )
        return changes(first, again)

    def judge(self, found: Sequence[float]) -> None:
        """Raise RerunError if an answer was another than the first time.

        Args:
            found: the values of `numbers`.
        """
        pairs = zip(self._what, found, strict=True)
        wrong = [(name, value) for (name, tolerance), value in pairs if not value <= tolerance]
        if not wrong and max(found) > HARMLESS:
            wrong = self._lasting_change(found)
        if wrong:
            name, value = max(wrong, key=lambda pair: pair[1])
            calls, all_calls = len({n for n, _ in wrong}), len({n for n, _ in self._what})
            raise RerunError(
                f"{name} gave another answer when it was run again for the gradient: it differs by "
                f"{value:.1e} of its norm ({calls} of {all_calls} calls differ), so the gradient "
                f"would be wrong. {self.explain()}"
            )

    def _lasting_change(self, found: Sequence[float]) -> list[tuple[str, float]]:
        """Return what changed most, and how much, unless it changes as much from run to run."""
        ends = list(accumulate(len(rows) for rows in self._first))
        sizes = {i: max(found[ends[i] - len(self._first[i]) : ends[i]]) for i in self._repeats}
        i = max(sizes, key=sizes.__getitem__, default=None)
        if i is None or sizes[i] <= HARMLESS:
            return []
        one = self._repeats[i]()
        change = float(changes(self._first[i], one).max())
        for _ in range(NUM_REPEATS - 1):
            noise = float(changes(one, self._repeats[i]()).max())
            if change <= max(HARMLESS, 3 * noise):
                return []
        return [(self._what[ends[i] - 1][0], change)]


class RerunError(RuntimeError):
    """A network call could not be run again as it was, so that a gradient would be wrong."""
