"""A metric averaged over random views of a picture, so that it is not met by a trick of pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from .objective import Objective, as_objective


class RandomViews(Objective):
    """A metric averaged over turned, shifted, zoomed and noisy copies of each picture.

    A classifier can be satisfied by a pattern that no person sees. What satisfies it from many
    views at once is more likely to be the thing itself (expectation over transformation,
    arXiv 1707.07397). Next to a sampling run, more views cost nearly nothing.

    Args:
        metric: an objective, whose direction it has; or a function as `as_objective` takes it.
        num_views: how many views are averaged.
        max_rotation: largest rotation to either side, in degrees.
        max_shift: largest shift to either side, as a share of the width or height.
        max_zoom: largest change of size, as a share of it.
        noise: standard deviation of the noise added to each pixel.
    """

    def __init__(
        self,
        metric: Callable[..., Tensor],
        num_views: int = 4,
        *,
        max_rotation: float = 10.0,
        max_shift: float = 0.08,
        max_zoom: float = 0.15,
        noise: float = 0.03,
    ) -> None:
        super().__init__()
        if num_views < 1:
            raise ValueError(f"num_views must be at least 1, not {num_views}")
        self.metric = as_objective(metric)
        self.larger_is_better = self.metric.larger_is_better
        self.num_views = num_views
        self.max_rotation = max_rotation
        self.max_shift = max_shift
        self.max_zoom = max_zoom
        self.noise = noise

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the average over views, (batch,).

        Args:
            images: (batch, 3, height, width) in [0, 1].
            generator: a CPU generator from which the views are drawn.
        """
        views = (self.view(images, generator) for _ in range(self.num_views))
        return torch.stack([self.metric(view, generator) for view in views]).mean(0)

    def view(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return one random view of each picture; what is outside continues the border."""
        angle, zoom, shift_x, shift_y = 2 * torch.rand(4, len(images), generator=generator) - 1
        angle, zoom = angle * math.radians(self.max_rotation), 1 + zoom * self.max_zoom
        cosine, sine = zoom * angle.cos(), zoom * angle.sin()
        # A grid spans -1 to 1, so a share of the width is twice that number.
        shift_x, shift_y = 2 * self.max_shift * shift_x, 2 * self.max_shift * shift_y
        rows = [torch.stack([cosine, -sine, shift_x]), torch.stack([sine, cosine, shift_y])]
        matrices = torch.stack(rows).permute(2, 0, 1).to(images)
        grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
        seen = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
        jitter = torch.randn(images.shape, generator=generator).to(images)
        return seen + self.noise * jitter
