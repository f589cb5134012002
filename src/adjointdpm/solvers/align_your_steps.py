"""The tables of Align Your Steps (arXiv 2404.14507): ten steps each, fitted to three models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FittedSteps:
    """Steps that were fitted to a model.

    Args:
        ratios: (10,) noise ratios sigma / alpha, from the noisy end.
        timesteps: (10,) the same as whole timesteps of a schedule of 1,000; None where there is no
            such schedule.
    """

    ratios: tuple[float, ...]
    timesteps: tuple[int, ...] | None = None


STABLE_DIFFUSION = FittedSteps(
    (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152),
    (999, 850, 736, 645, 545, 455, 343, 233, 124, 24),
)
STABLE_DIFFUSION_XL = FittedSteps(
    (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.38, 0.234, 0.113),
    (999, 845, 730, 587, 443, 310, 193, 116, 53, 13),
)
STABLE_VIDEO_DIFFUSION = FittedSteps(
    (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034)
)
