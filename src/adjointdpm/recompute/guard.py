"""Leaves of graphs that nobody but their own backward pass may reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor


class Guard:
    """Raises where a gradient arrives at a watched leaf at another time than its own.

    A call that is run again leaves tensors behind, if somebody collects them: attention maps,
    features. They end in leaves that pass nothing on to the noise or the conditioning, so that an
    objective of them would silently get no gradient.
    """

    def __init__(self) -> None:
        self._open = 0

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Let gradients arrive in a block."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    def watch(self, leaf: Tensor) -> None:
        """Watch a leaf that requires grad."""
        leaf.register_hook(self)

    def __call__(self, gradient: Tensor) -> None:
        """Raise if no block is open.

        Raises:
            RuntimeError: the gradient has come on a way of its own.
        """
        if not self._open:
            raise RuntimeError(
                "a gradient arrived inside a network call whose graph is not kept: the objective "
                "reads a tensor that was collected during sampling (an attention map, a feature, "
                "say by a hook), or another thread ran the network meanwhile. Such a tensor passes "
                "nothing on to the noise, the conditioning or the weights. Give it to a sampler's "
                "collect=..., whose results have a gradient, detach it, or use "
                "gradient=adp.Backprop()"
            )
