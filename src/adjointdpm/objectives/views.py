"""A metric averaged over random views of a picture, so that it is not met by a trick of pixels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from ..features import Preprocessing, adjust_color
from .objective import Objective, as_objective

LARGEST_JITTER = 0.4
"""So that a view is always taken for a picture in [0, 1], by what checks the range."""


class AveragedViews(Objective):
    """A metric averaged over views of each picture, whose direction it has.

    Args:
        metric: an objective, or a function as `as_objective` takes it.
        num_views: how many views are averaged.
    """

    def __init__(self, metric: Callable[..., Tensor], num_views: int) -> None:
        super().__init__()
        if num_views < 1:
            raise ValueError(f"num_views must be at least 1, not {num_views}")
        self.metric = as_objective(metric)
        self.larger_is_better = self.metric.larger_is_better
        self.num_views = num_views

    @abstractmethod
    def view(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return one random view of each picture.

        Args:
            images: (batch, 3, height, width) in [0, 1].
            generator: a CPU generator from which it is drawn.
        """

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the average over views, (batch,).

        Args:
            images: (batch, 3, height, width) in [0, 1].
            generator: a CPU generator from which the views are drawn.
        """
        views = (self.view(images, generator) for _ in range(self.num_views))
        return torch.stack([self.metric(view, generator) for view in views]).mean(0)


class RandomViews(AveragedViews):
    """A metric averaged over turned, shifted, zoomed, tinted and noisy copies of each picture.

    A classifier can be satisfied by a pattern that no person sees. What satisfies it from many
    views at once is more likely to be the thing itself (expectation over transformation,
    arXiv 1707.07397). Next to a sampling run, more views cost nearly nothing.

    Args:
        metric: an objective, whose direction it has; or a function as `as_objective` takes it.
        num_views: how many views are averaged.
        max_rotation: largest rotation to either side, in degrees.
        max_shift: largest shift to either side, as a share of the width or height.
        max_zoom: largest change of size, as a share of it.
        max_color: largest change of brightness, of contrast and of saturation, as a share of each.
        noise: standard deviation of the noise added to each pixel; each value is cut at
            ±`LARGEST_JITTER`.
    """

    def __init__(
        self,
        metric: Callable[..., Tensor],
        num_views: int = 4,
        *,
        max_rotation: float = 10.0,
        max_shift: float = 0.08,
        max_zoom: float = 0.15,
        max_color: float = 0.0,
        noise: float = 0.03,
    ) -> None:
        super().__init__(metric, num_views)
        self.max_rotation = max_rotation
        self.max_shift = max_shift
        self.max_zoom = max_zoom
        self.max_color = max_color
        self.noise = noise

    def view(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return one random view of each picture; what is outside continues the border."""
        # kornia's random views draw from the global generator; its transformations draw nothing.
        from kornia.geometry.transform import get_affine_matrix2d, warp_affine  # slow to import

        height, width = images.shape[2:]
        draws = (2 * torch.rand(7, len(images), generator=generator) - 1).to(images)
        size = images.new_tensor([width, height])
        matrices = get_affine_matrix2d(
            self.max_shift * draws[:2].T * size,
            ((size - 1) / 2).expand(len(images), 2),
            (1 + self.max_zoom * draws[2])[:, None].expand(-1, 2),
            self.max_rotation * draws[3],
        )
        seen = warp_affine(
            images, matrices[:, :2], (height, width), padding_mode="border", align_corners=False
        )
        if self.max_color:
            seen = adjust_color(seen, *(1 + self.max_color * draws[4:]))
        jitter = self.noise * torch.randn(images.shape, generator=generator).to(images)
        return seen + jitter.clamp(-LARGEST_JITTER, LARGEST_JITTER)


class RandomCutouts(AveragedViews):
    """A metric averaged over random square cutouts, scaled to one size, as in guidance by CLIP.

    A network of fixed input size sees a large picture as a whole and part by part. All pictures of
    a batch are cut at the same place; the next cutout is elsewhere.

    Args:
        metric: an objective, whose direction it has; or a function as `as_objective` takes it.
        size: height and width to which cutouts are scaled, in pixels.
        num_views: how many cutouts are averaged.
        min_share: size of the smallest cutout, as a share of the shorter side.
        power: above 1 there are more small cutouts, below 1 more large ones.
    """

    def __init__(
        self,
        metric: Callable[..., Tensor],
        size: int,
        num_views: int = 16,
        *,
        min_share: float = 0.3,
        power: float = 1.0,
    ) -> None:
        super().__init__(metric, num_views)
        if not 0 < min_share <= 1:
            raise ValueError(f"min_share must lie in (0, 1], not {min_share}")
        self.min_share = min_share
        self.power = power
        self.resize = Preprocessing(size=(size, size))

    def view(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return one cutout of each picture, (batch, 3, size, size)."""
        height, width = images.shape[2:]
        share, down, right = torch.rand(3, generator=generator).tolist()
        share = self.min_share + (1 - self.min_share) * share**self.power
        edge = max(1, round(share * min(height, width)))
        top, left = round(down * (height - edge)), round(right * (width - edge))
        return self.resize(images[..., top : top + edge, left : left + edge])
