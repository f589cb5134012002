"""How right the gradient of a job is: measured on its own model, goal and conditioning."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from ..certificate import Certificate, certify
from ..decoding import Decoder
from ..sampler import Sampler


def certify_gradient(
    sampler: Sampler, decode: Decoder, metric: nn.Module, noise: Tensor, seed: int, **cond: Any
) -> Certificate:
    """Compare a job's gradient with central differences of whole sampling runs.

    The targets are those of `certify`: the noise, and whatever of the conditioning and of the
    network's weights requires grad.

    Args:
        sampler: with the gradient method of the job.
        decode: makes pictures of its latents.
        metric: what the job optimises, of pictures as they are.
        noise: (batch, ...) where to look.
        seed: of the directions, and of what a stochastic sampler draws.
        **cond: conditioning, as the sampler takes it.
    """
    # The straight-through clamp departs from the derivative on purpose, and a white background has
    # a kink of the hard one in every pixel, which a difference would step across.
    smooth = copy.copy(decode)
    smooth.clamp = "none"
    return certify(
        sampler,
        noise,
        nn.Sequential(smooth, metric),
        num_directions=2,
        step=1e-6,
        derivatives="central",
        seed=seed,
        **cond,
    )
