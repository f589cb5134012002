"""Where an autograd graph ends, and how large it is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reached:
    """What an autograd graph consists of.

    Args:
        leaves: where it ends, by identity.
        oldest: the number of the first node that was made for it, see `num_nodes_made`.
    """

    leaves: dict[int, Tensor]
    oldest: int


def reached_from(*outputs: Tensor) -> Reached:
    """Walk through the autograd graph of tensors."""
    leaves = {id(x): x for x in outputs if x.requires_grad and x.grad_fn is None}
    pending = [x.grad_fn for x in outputs if x.grad_fn is not None]
    seen, oldest = set(pending), num_nodes_made()
    while pending:
        node = pending.pop()
        oldest = min(oldest, node._sequence_nr())
        if hasattr(node, "variable"):
            leaves[id(node.variable)] = node.variable
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                pending.append(following)
    return Reached(leaves, oldest)


def is_looked_into(k: int) -> bool:
    """Return whether call k gets a graph when it runs first, to see what it consists of.

    These are the first calls, since the second may use what the first has left behind, and fewer
    and fewer of the later ones.

    >>> [k for k in range(20) if is_looked_into(k)]
    [0, 1, 2, 4, 8, 16]
    """
    return k & (k - 1) == 0


def num_nodes_made() -> int:
    """Return how many nodes of graphs this thread has made so far."""
    return torch._C._autograd._get_sequence_nr()


def strangers(reached: dict[int, Tensor], known: Collection[Tensor]) -> list[Tensor]:
    """Return the leaves among ``reached`` that are not known."""
    ids = {id(tensor) for tensor in known}
    return [leaf for key, leaf in reached.items() if key not in ids]
