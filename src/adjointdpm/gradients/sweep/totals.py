"""Gradients of conditioning and weights, summed over the network calls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...recompute import times_power


class Totals:
    """Weighted sums of gradients over the calls, kept in place; None until the first is there.

    For sums with weights that are not known when a product is taken; `Arrivals` adds up the rest.
    """

    def __init__(self, targets: Sequence[Tensor]) -> None:
        self.values: list[Tensor | None] = [None] * len(targets)

    def add(self, gradients: Sequence[Tensor | None], weight: float = 1.0) -> None:
        """Add ``weight`` times the gradients of one call."""
        sums, known = [], []
        for i, gradient in enumerate(gradients):
            if gradient is None:
                continue
            total = self.values[i]
            if total is None:
                self.values[i] = gradient * weight
            else:
                sums.append(total)
                known.append(gradient)
        if known:
            torch._foreach_add_(sums, known, alpha=weight)


class Arrivals:
    """Sums of the gradients that arrive at leaves, added up while autograd is at it.

    So they are never all there beside their sums: as large as the weights, that would be the most
    of what training takes.

    Args:
        leaves: of the graphs of all calls.
        scaled: whether adjoints carry a power of two, which is taken back in float32 as gradients
            arrive; the sums are float32 then, and never too small for float16.
        copies: whether gradients lie where the next pass may write, and are copied.
    """

    def __init__(self, leaves: Sequence[Tensor], *, scaled: bool, copies: bool = False) -> None:
        self._leaves = leaves
        self._sums: list[Tensor | None] = [None] * len(leaves)
        self._handles: list[Any] = []
        self._scaled = scaled
        self._before = [leaf.grad for leaf in leaves]  # sharded weights are leaves themselves
        self.exponent: Tensor | None = None
        """The power of two of the pass that is on its way."""
        for i, leaf in enumerate(leaves):
            leaf.grad = None
            if copies and not scaled:
                self._handles.append(leaf.register_hook(torch.clone))
            if scaled:
                hook = partial(self._arrived, i)
                self._handles.append(leaf.register_post_accumulate_grad_hook(hook))

    def _arrived(self, i: int, leaf: Tensor) -> None:
        assert leaf.grad is not None
        assert self.exponent is not None
        gradient, leaf.grad = times_power(leaf.grad, self.exponent), None
        known = self._sums[i]
        self._sums[i] = gradient if known is None else known.add_(gradient)

    def take(self) -> list[Tensor | None]:
        """Return the sums since the last time, and start anew; None where nothing arrived."""
        if self._scaled:
            sums, self._sums = self._sums, [None] * len(self._leaves)
            return sums
        sums = [leaf.grad for leaf in self._leaves]
        for leaf in self._leaves:
            leaf.grad = None
        return sums

    def close(self) -> None:
        """Let go of the leaves, and leave them the gradients that they had."""
        self.take()
        for leaf, gradient in zip(self._leaves, self._before, strict=True):
            leaf.grad = gradient
        for handle in self._handles:
            handle.remove()
        self._handles = []
