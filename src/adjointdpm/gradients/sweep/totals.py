"""Gradients of conditioning and weights, summed over the network calls."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def times_power(gradient: Tensor, exponent: Tensor) -> Tensor:
    """Return a gradient times a power of two, in float32 or better."""
    return torch.ldexp(gradient.to(torch.promote_types(gradient.dtype, torch.float32)), exponent)


class Totals:
    """Sums of gradients over the calls, kept in place; None until the first is there."""

    def __init__(self, targets: Sequence[Tensor]) -> None:
        self.values: list[Tensor | None] = [None] * len(targets)

    def add(self, gradients: Sequence[Tensor | None], weight: float = 1.0) -> None:
        """Add ``weight`` times the gradients of one call."""
        self.add_some([(i, g) for i, g in enumerate(gradients) if g is not None], weight)

    def add_some(self, gradients: Sequence[tuple[int, Tensor]], weight: float = 1.0) -> None:
        """Add ``weight`` times gradients that come with their numbers."""
        sums, known = [], []
        for i, gradient in gradients:
            total = self.values[i]
            if total is None:
                self.values[i] = gradient * weight
            else:
                sums.append(total)
                known.append(gradient)
        if known:
            torch._foreach_add_(sums, known, alpha=weight)


class Summing:
    """Adds the gradients of the larger weights to their totals while autograd is at it.

    A few at a time are added and let go, so that they are never all there beside their sums: as
    large as the weights, that would be the most of what training takes. The many small weights of a
    network, an eighth of it in all, are not worth a hook each.

    Args:
        weights: whose gradients.
        totals: where to.
        first: the number of the first weight's total.
    """

    def __init__(self, weights: Sequence[Tensor], totals: Totals, first: int) -> None:
        self._totals = totals
        left = sum(weight.nbytes for weight in weights)
        self._most = left // 8
        self._taken: dict[int, Tensor] = {}
        """The weights that are seen to here, by the number of their total."""
        for i in sorted(range(len(weights)), key=lambda i: -weights[i].nbytes):
            if left > self._most:
                self._taken[first + i] = weights[i]
                left -= weights[i].nbytes
        self._exponent: Tensor | None = None
        self._graph_task = -1
        self._pending: list[tuple[int, Tensor]] = []
        self._pending_bytes = 0
        self._handles: list[Any] = []

    def __enter__(self) -> Summing:
        for number, weight in self._taken.items():
            # What autograd is to hold in place of the gradient: of its shape, without its memory.
            nothing = weight.detach().new_empty(()).expand_as(weight)
            self._handles.append(weight.register_hook(self._hook(number, nothing)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, number: int, nothing: Tensor) -> Callable[[Tensor], Tensor | None]:
        def take(gradient: Tensor) -> Tensor | None:
            # The weights are not ours alone: another thread may differentiate them too.
            if torch._C._current_graph_task_id() != self._graph_task:
                return None
            if self._exponent is not None:
                gradient = times_power(gradient, self._exponent)
            self._pending.append((number, gradient))
            self._pending_bytes += gradient.nbytes
            if self._pending_bytes > self._most:
                self._add_pending()
            return nothing

        return take

    def others(self, gradients: Sequence[Tensor | None], first: int) -> list[Tensor | None]:
        """Return the gradients of a pass with None for those that were added already.

        Args:
            gradients: what autograd gave.
            first: where among them that of total 0 is.
        """
        return [None if i - first in self._taken else g for i, g in enumerate(gradients)]

    def _add_pending(self) -> None:
        self._totals.add_some(self._pending)
        self._pending, self._pending_bytes = [], 0

    @contextlib.contextmanager
    def pass_of(self, output: Tensor, exponent: Tensor | None) -> Iterator[None]:
        """Take what comes in one backward pass.

        Args:
            output: where the pass starts. A hook on it, which nobody else has, tells which it is.
            exponent: the power of two that the gradients are to be multiplied with.
        """

        def note(_: Tensor) -> None:
            self._graph_task = torch._C._current_graph_task_id()

        self._exponent = exponent
        handle = output.register_hook(note)
        try:
            yield
            self._add_pending()
        finally:
            handle.remove()
            self._graph_task = -1
