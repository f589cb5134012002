"""Functions that pass a gradient on as if they were others."""

from __future__ import annotations

from torch import Tensor


def straight_through(value: Tensor, gradient_of: Tensor) -> Tensor:
    """Return ``value`` with the gradient of another tensor (arXiv 1308.3432).

    Args:
        value: what to return.
        gradient_of: a tensor of the same shape, whose gradient it gets.

    >>> import torch
    >>> x = torch.tensor([0.4], requires_grad=True)
    >>> straight_through(x.round(), 3 * x).backward()
    >>> x.grad
    tensor([3.])
    """
    return gradient_of + (value - gradient_of).detach()
