"""What an attack climbs: one number a row of logits, larger where the class is lost."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

AttackLoss = Callable[[Tensor, Tensor, bool], Tensor]
TINY = 1e-12


def margin(logits: Tensor, classes: Tensor, targeted: bool = False) -> Tensor:
    """Return the largest other logit minus that of the class, or its negative if targeted.

    Positive exactly where the attack has succeeded: the class is not the answer, or the target is.

    Args:
        logits: (batch, classes).
        classes: (batch,) the class to be lost, or if targeted to be reached.
        targeted: which.

    Returns:
        (batch,) differences of logits.

    >>> margin(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([0]))
    tensor([-2.])
    >>> margin(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([1]), targeted=True)
    tensor([-2.])
    """
    index = classes[:, None]
    others = logits.scatter(1, index, -torch.inf).amax(1)
    ahead = others - logits.gather(1, index)[:, 0]
    return -ahead if targeted else ahead


def cross_entropy(logits: Tensor, classes: Tensor, targeted: bool = False) -> Tensor:
    """Return the cross-entropy of the class, or its negative if targeted, (batch,)."""
    values = functional.cross_entropy(logits, classes, reduction="none")
    return -values if targeted else values


def difference_of_logits_ratio(logits: Tensor, classes: Tensor, targeted: bool = False) -> Tensor:
    """Return the DLR loss: the margin in units of a difference of ordered logits, (batch,).

    Multiplying all logits by a number does not change it (Croce and Hein 2020, arXiv 2003.01690,
    equations 6 and 7). Targeted, it is the target's margin over the best other class, where the
    paper has the true class.

    Raises:
        ValueError: fewer than three classes, or than four if targeted.
    """
    needed = 4 if targeted else 3
    if logits.shape[1] < needed:
        raise ValueError(
            f"the loss dlr needs at least {needed} classes, and there are {logits.shape[1]}: use "
            "margin"
        )
    ordered = logits.topk(needed, dim=1).values
    if targeted:
        reference = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2
        return margin(logits, classes, targeted=True) / (reference + TINY)
    return margin(logits, classes) / (ordered[:, 0] - ordered[:, 2] + TINY)


LOSSES: dict[str, AttackLoss] = {
    "margin": margin,
    "cross_entropy": cross_entropy,
    "dlr": difference_of_logits_ratio,
}
"""By the name that settings give."""
