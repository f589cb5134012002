"""The noises of the updates: at first near those that the metric likes, at last any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...objectives import Objective

NEAREST, SPREAD = 0.2, 0.4
"""The smallest reach, and how much nearer the nearest picture of an update is than the furthest."""
START, WIDER, NARROWER = 0.3, 0.08, -0.04
"""The reach of the first update, and its changes."""
KEPT, LOST = 0.7, 0.5
"""The share of good pictures from which the reach grows, and below which it shrinks."""


@dataclass(frozen=True)
class Anchors:
    """Noises whose pictures are good.

    Args:
        noise: (num_anchors, ...) latents, best first.
        templates: the prompt of each picture.
        good: a loss up to which a picture is called good.
    """

    noise: Tensor
    templates: Sequence[str]
    good: float


class Noises:
    """Noises that move away from anchors as the pictures stay good.

    What a picture shows is decided early in sampling, by the noise. From most noises the picture is
    far from what a metric asks for, and its gradient leads to a pattern between two things. Near a
    noise whose picture is nearly right already it leads to the thing. So the first updates see
    noises near such ones, and the reach grows as long as most pictures are good.

    Args:
        shape: of one latent.
        templates: the prompts of the updates.
        anchors: what to begin near; None for new noises from the start.
    """

    def __init__(
        self, shape: tuple[int, ...], templates: Sequence[str], anchors: Anchors | None = None
    ) -> None:
        self.shape, self.templates, self.anchors = shape, templates, anchors
        # Among the variables of a run it is in its checkpoints; no gradient moves it.
        self.reach = torch.tensor(START, requires_grad=True)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What a run that goes on must find as it was."""
        return {} if self.anchors is None else {"reach": self.reach}

    def draw(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """Return standard-normal latents, (batch_size, *shape), and a prompt for each.

        Args:
            batch_size: how many.
            generator: a CPU generator.
        """
        fresh = torch.randn(batch_size, *self.shape, generator=generator)
        picks = torch.randint(len(self.templates), (batch_size,), generator=generator).tolist()
        templates = [self.templates[i] for i in picks]
        if self.anchors is None:
            return fresh, templates
        chosen = torch.randint(len(self.anchors.noise), (batch_size,), generator=generator)
        share = torch.linspace(1 - SPREAD, 1, batch_size) if batch_size > 1 else torch.ones(1)
        reach = self.reach.detach() * share
        # A noise is good in its own prompt, and perhaps in no other.
        strays = torch.rand(batch_size, generator=generator) < reach
        own = [self.anchors.templates[i] for i in chosen.tolist()]
        prompts = [t if stray else o for t, o, stray in zip(templates, own, strays, strict=True)]
        reach = reach.reshape(-1, *[1] * len(self.shape))
        # The weights' squares add up to one, so that the latents are standard normal still.
        return (1 - reach**2).sqrt() * self.anchors.noise[chosen] + reach * fresh, prompts

    @torch.no_grad()
    def widen(self, losses: Tensor) -> None:
        """Let the reach grow or shrink by what became of the pictures, (batch,) losses."""
        if self.anchors is None:
            return
        share = (losses <= self.anchors.good).float().mean().cpu()
        step = WIDER * (share >= KEPT) + NARROWER * (share < LOST)
        self.reach.copy_((self.reach + step).clamp(NEAREST, 1))


@torch.no_grad()
def find_anchors(
    images: Tensor,
    objective: Objective,
    noise: Tensor,
    templates: Sequence[str],
    num_anchors: int,
    generator: torch.Generator,
) -> Anchors:
    """Return the noises of the best pictures; at least one, and none whose picture is not good.

    Good is what is better than half way from the best to the median: for a classifier's margin
    about what has won.

    Args:
        images: (candidates, 3, height, width) in [0, 1], the pictures of the noises.
        objective: says how good a picture is.
        noise: (candidates, ...) latents.
        templates: the prompt of each.
        num_anchors: how many to keep at most.
        generator: a CPU generator that the objective draws from.
    """
    losses = torch.cat([objective.loss(part, generator).cpu() for part in images.split(16)])
    ordered, best = losses.sort(stable=True)
    good = ordered[0] + (losses.median() - ordered[0]) / 2
    kept = best[ordered <= good][:num_anchors]
    return Anchors(noise[kept], [templates[i] for i in kept.tolist()], good.item())
