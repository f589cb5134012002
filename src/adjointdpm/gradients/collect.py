"""What a run is asked for beside its sample: a function of every network call, stacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..recompute import writes

Collect = Callable[[int, float | Tensor, Tensor, Tensor, Any], Any]
"""``(k, t, x, output, answer) -> tensors`` of network call k.

It is given the number of the call, its time, the network's input, the denoiser's output and the
whole answer of the network (with guidance the pair of the unconditional and the conditional one),
and returns a tensor, or a dict, list or tuple of tensors, of the same shapes for every call.
"""


class Collector:
    """Calls a function after every network call, and stacks what it returns.

    Args:
        collect: the function.
        num_calls: of the run.
        attached: whether what it returns keeps its graph. Otherwise values are copied to their
            place in the stack, and the graph of a call can go with the call.
    """

    def __init__(self, collect: Collect, num_calls: int, *, attached: bool) -> None:
        self._collect, self._num_calls, self._attached = collect, num_calls, attached
        self._structure: pytree.TreeSpec | None = None
        self._shapes: list[torch.Size] = []
        self._kept: list[Sequence[Tensor]] = []
        self._stacks: list[Tensor] = []

    @classmethod
    def of(cls, run: Any, *, attached: bool) -> Collector:
        """Return the collector of a `Run` that asks for something."""
        return cls(run.collect, run.plan.num_calls, attached=attached)

    def of_call(
        self, k: int, t: float | Tensor, x: Tensor, output: Tensor, answer: Any
    ) -> list[Tensor]:
        """Return the tensors that the function makes of a call.

        Raises:
            TypeError: it returned something else than a nest of tensors.
            ValueError: it returned another nest than for the first call, or wrote into a latent.
        """
        before = writes((x, output))
        leaves, structure = pytree.tree_flatten(self._collect(k, t, x, output, answer))
        if writes((x, output)) != before:
            raise ValueError(
                f"collect wrote into what it was given in network call {k}; let it work on a copy"
            )
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                raise TypeError(
                    f"collect returned {leaf!r:.80} in network call {k}; it must return a tensor, "
                    "or a dict, list or tuple of tensors"
                )
        if self._structure is None:
            self._structure = structure
        if structure != self._structure:
            raise ValueError(
                f"collect returned {structure} in network call {k}, but {self._structure} in the "
                "first; what is stacked must be nested alike"
            )
        return leaves

    def keep(self, k: int, leaves: Sequence[Tensor]) -> None:
        """Take what `of_call` returned for a call of the sampling run.

        Raises:
            ValueError: a tensor has another shape than in the first call.
        """
        if k == 0:
            self._shapes = [leaf.shape for leaf in leaves]
        for leaf, shape in zip(leaves, self._shapes, strict=True):
            if leaf.shape != shape:
                raise ValueError(
                    f"collect returned a tensor of shape {tuple(leaf.shape)} in network call {k}, "
                    f"but {tuple(shape)} in the first; what is stacked must have equal shapes"
                )
        if self._attached:
            self._kept.append(leaves)
            return
        if k == 0:
            self._stacks = [
                leaf.detach().new_empty(self._num_calls, *leaf.shape) for leaf in leaves
            ]
        for stack, leaf in zip(self._stacks, leaves, strict=True):
            stack[k] = leaf.detach()

    @property
    def stacks(self) -> list[Tensor]:
        """What was kept, (num_calls, ...) each."""
        if self._attached:
            return [torch.stack(leaves) for leaves in zip(*self._kept, strict=True)]
        return self._stacks

    def nest(self, stacks: list[Tensor]) -> Any:
        """Return tensors nested as the function nested them."""
        assert self._structure is not None
        return pytree.tree_unflatten(stacks, self._structure)
