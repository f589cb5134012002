"""Conditioning of trained encoders that can be used for any number of gradients.

What an encoder answers while its weights require grad has a graph, and a graph serves for one
backward pass. Here the encoding is run again in each backward pass instead: words that were
encoded once serve for all updates of a picture, no activations of the encoder are kept, and weights
that were changed in the meantime are noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..recompute import Comparison, Replay, reached_from, refuse_moving_weights


def reusable(encode: Callable[[], Any], modules: Mapping[str, nn.Module]) -> Any:
    """Return what ``encode`` returns, with graphs that end in weights made anew when needed.

    Args:
        encode: returns a nest of tensors; it is run again in the backward pass.
        modules: that it may call, by name.
    """
    cond = encode()
    leaves, structure = pytree.tree_flatten(cond)
    owner_of = {id(p): name for name, part in modules.items() for p in part.parameters()}
    ends = {i: reached_from(x).leaves for i, x in enumerate(leaves) if _has_graph(x)}
    chosen = [i for i, found in ends.items() if found and found.keys() <= owner_of.keys()]
    if not chosen:
        return cond
    owners = {owner_of[weight] for i in chosen for weight in ends[i]}
    encoding = _Encoding(encode, {name: modules[name] for name in sorted(owners)}, chosen)
    answers = _Encoded.apply(encoding, *encoding.weights)
    for i, answer in zip(chosen, answers, strict=True):
        leaves[i] = answer
    return pytree.tree_unflatten(leaves, structure)


def _has_graph(value: Any) -> bool:
    return isinstance(value, Tensor) and value.grad_fn is not None


class _Encoding:
    """One encoding, which can be run again.

    Args:
        encode: returns a nest of tensors.
        owners: the modules in whose weights the graphs end.
        chosen: which of the nest's leaves are wanted.
    """

    def __init__(
        self, encode: Callable[[], Any], owners: Mapping[str, nn.Module], chosen: Sequence[int]
    ) -> None:
        for owner in owners.values():
            refuse_moving_weights(owner)
        self._encode, self._chosen, self._names = encode, chosen, " and ".join(owners)
        self._replay = Replay(nn.ModuleDict(owners))
        device = next(p.device for owner in owners.values() for p in owner.parameters())
        with torch.no_grad():
            answers, self._record = self._replay.first(self._run, device)
        self.answers = [answer.clone() for answer in answers]
        self.weights = self._record.weights.differentiated

    def _run(self) -> list[Tensor]:
        leaves = pytree.tree_leaves(self._encode())
        return [leaves[i] for i in self._chosen]

    def pull_back(self, adjoints: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the vector-Jacobian products with the weights."""
        if changed := self._replay.changed_since(self._record):
            raise RuntimeError(
                f"the weights of {self._names} were changed since encode_prompt ({changed[0]}), so "
                "the words are not theirs any more. While an encoder is trained, encode the prompt "
                "again for each update"
            )
        with self._replay.guard.opened():
            return self._products(adjoints, twice=torch.is_grad_enabled())

    def _products(self, adjoints: Sequence[Tensor | None], twice: bool) -> list[Tensor | None]:
        comparison = Comparison(lambda: self._replay.explain(self._record))
        with torch.enable_grad():
            answers = self._replay.again(
                self._record, self._run, what="encode_prompt", comparison=comparison, attached=twice
            )
        comparison.raise_if_changed()
        pairs = [(x, a) for x, a in zip(answers, adjoints, strict=True) if a is not None]
        wanted = self.weights if twice else self._record.weights.leaves
        if not pairs:
            return [None] * len(wanted)
        roots, seeds = zip(*pairs, strict=True)
        return list(
            torch.autograd.grad(roots, wanted, seeds, create_graph=twice, allow_unused=True)
        )


class _Encoded(torch.autograd.Function):
    """The node of an encoding. It saves no tensors, so it serves for any number of passes."""

    @staticmethod
    def forward(ctx: Any, encoding: _Encoding, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.encoding = encoding
        ctx.set_materialize_grads(False)
        answers, encoding.answers = encoding.answers, []
        return tuple(answers)

    @staticmethod
    def backward(ctx: Any, *adjoints: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *ctx.encoding.pull_back(adjoints)
