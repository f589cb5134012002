"""Where an autograd graph ends."""

from __future__ import annotations

from torch import Tensor


def leaves_of(output: Tensor) -> dict[int, Tensor]:
    """Return the leaves of an autograd graph, by identity."""
    leaves: dict[int, Tensor] = {}
    if output.grad_fn is None:
        return {id(output): output} if output.requires_grad else {}
    seen, pending = {output.grad_fn}, [output.grad_fn]
    while pending:
        node = pending.pop()
        if hasattr(node, "variable"):
            leaves[id(node.variable)] = node.variable
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                pending.append(following)
    return leaves
