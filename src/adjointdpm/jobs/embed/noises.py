"""The noises of the updates: at first near those that the metric likes, at last any."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...objectives import Objective

NEAREST = 0.3
"""The reach of the first update, and the difference of reach between the pictures of one."""


@dataclass(frozen=True)
class Noises:
    """Noises that move away from anchors in the course of a run.

    What a picture shows is decided early in sampling, by the noise. From most noises the picture is
    far from what a metric asks for, and its gradient leads to a pattern between two things. Near a
    noise whose picture is nearly right already it leads to the thing. So the first updates see
    noises near such ones, and the reach grows until noises are any.

    Args:
        shape: of one latent.
        anchors: (num_anchors, *shape) latents to begin near; None for new noises from the start.
        widening: the share of the run after which all noises are new.
    """

    shape: tuple[int, ...]
    anchors: Tensor | None = None
    widening: float = 0.6

    def draw(self, batch_size: int, progress: float, generator: torch.Generator) -> Tensor:
        """Return standard-normal latents, (batch_size, *shape).

        Args:
            batch_size: how many.
            progress: share of the run that is over, in [0, 1).
            generator: a CPU generator.
        """
        fresh = torch.randn(batch_size, *self.shape, generator=generator)
        if self.anchors is None:
            return fresh
        chosen = torch.randint(len(self.anchors), (batch_size,), generator=generator)
        widest = NEAREST + progress / self.widening
        behind = torch.linspace(NEAREST, 0, batch_size) if batch_size > 1 else torch.zeros(1)
        reach = (widest - behind).clamp(0, 1).reshape(-1, *[1] * len(self.shape))
        # The weights' squares add up to one, so that the latents are standard normal still.
        return (1 - reach**2).sqrt() * self.anchors[chosen] + reach * fresh


@torch.no_grad()
def find_anchors(
    images: Tensor,
    objective: Objective,
    noise: Tensor,
    num_anchors: int,
    generator: torch.Generator,
) -> Tensor:
    """Return the noises whose pictures are best, (num_anchors, ...), best first.

    Args:
        images: (candidates, 3, height, width) in [0, 1], the pictures of the noises.
        objective: says how good a picture is.
        noise: (candidates, ...) latents.
        num_anchors: how many to keep.
        generator: a CPU generator that the objective draws from.
    """
    losses = torch.cat([objective.loss(part, generator) for part in images.split(16)])
    return noise[losses.cpu().argsort(stable=True)[:num_anchors]]
