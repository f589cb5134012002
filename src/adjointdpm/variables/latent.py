"""Keeping an optimised latent where the model has seen latents."""

from __future__ import annotations

from torch import Tensor


def project_to_typical(noise: Tensor) -> Tensor:
    """Return the latents scaled back to the radius of standard-normal ones.

    Nearly all of a standard normal distribution in d dimensions lies at the distance sqrt(d) from
    the origin, to within one. A gradient knows nothing of that and would walk off, to where the
    model has never been and draws no pictures; scaled back after every step, it can only turn the
    latent.

    Args:
        noise: (batch, ...) latents.

    >>> import torch
    >>> project_to_typical(torch.ones(1, 4, 2, 2) * 3).norm()
    tensor(4.)
    """
    dims = tuple(range(1, noise.ndim))
    size = noise[0].numel()
    return noise * (size**0.5 / noise.square().sum(dims, keepdim=True).sqrt())
