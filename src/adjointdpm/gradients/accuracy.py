"""What an approximate method says of its own error: to an observer, and to the user if it is large.

`OwnWeights` estimates that of the adjoint ODE. In the flow form a sampler is a sum,
``z_end = z_start + sum_k w_k F_k`` (see `interpolated`), so that its gradient takes the slope of
the adjoint at its own times with its own weights, where the ODE takes an integral:

    sampler   a_start = a_end - sum_k w_k a'(tau_k)
    ODE       a_start = a_end - int a' dtau

The slopes that the reverse sweep asked for, with lines between them, give the first in no more
network calls; how far the two are apart is the estimate, with what the lines are off where the
slopes bend. It has the size of the error and not its direction: the sampler's own products are with
adjoints at the ends of steps, which no slope of the ODE tells.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right

import torch
from torch import Tensor

from .method import Run

WARN_ABOVE = 0.2
"""The estimated error of a gradient, relative to its norm, above which the user is told."""


class InaccurateGradientWarning(UserWarning):
    """A gradient method found, from its own run, that its error is large."""


def judge(run: Run, estimate: Tensor, what: str) -> None:
    """Tell the observer of an estimated error, and warn of a large one.

    Args:
        run: the run.
        estimate: the error relative to the norm of the gradient.
        what: what was done, and is too little, as the beginning of a sentence.
    """
    if run.noise.is_meta or not (run.check_finite or run.observer is not None):
        return
    error = float(estimate)
    if run.observer is not None:
        run.observer.on_error_estimate(error)
    if not error <= WARN_ABOVE:
        size = f"about {error:.1g} of its norm" if error < 1 else "as much as its norm or more"
        warnings.warn(
            f"{what} too few here: by what they tell, the gradient is off by {size}. Take more, "
            "or Exact()",
            InaccurateGradientWarning,
            stacklevel=2,
        )


class OwnWeights:
    """The sampler's own sum of the slopes that a sweep of the adjoint ODE takes.

    It keeps three latents.

    Args:
        taus: of the sampler's calls, in the flow form, in any order.
        weights: of the calls' velocities in the sample.
    """

    def __init__(self, taus: list[float], weights: list[float]) -> None:
        pairs = sorted(zip(taus, weights, strict=True))
        self._taus, self._weights = ([pair[i] for pair in pairs] for i in (0, 1))
        self._passed = 0
        self._latest: list[tuple[float, Tensor]] = []
        self._sum: Tensor | None = None
        self._off: list[Tensor] = []

    def add(self, tau: float, slope: Tensor, adjoint: Tensor) -> None:
        """Take note of a slope, the times ascending from the image to the noise.

        Args:
            tau: the time.
            slope: of the adjoint there.
            adjoint: itself.
        """
        start, self._passed = self._passed, bisect_right(self._taus, tau + 1e-12)
        taus, weights = (each[start : self._passed] for each in (self._taus, self._weights))
        previous, value = self._latest[-1] if self._latest else (tau, slope)
        if previous == tau:
            self._weigh([(sum(weights), slope)])
            self._latest = [(tau, slope)]
            return
        at = [(each - previous) / (tau - previous) for each in taus]
        up = sum(w * share for w, share in zip(weights, at, strict=True))
        self._weigh([(up, slope), (sum(weights) - up, value)])
        self._bend(tau, slope, adjoint, weights, at)
        self._latest = [*self._latest[-1:], (tau, slope)]

    def estimate(self, start: Tensor, end: Tensor) -> Tensor:
        """Return the error relative to the norm of the gradient, as a tensor.

        Args:
            start: the adjoint that the sweep found at the noise.
            end: the adjoint at the image.
        """
        self._weigh([(sum(self._weights[self._passed :]), self._latest[-1][1])])
        assert self._sum is not None
        apart = (start - end + self._sum).norm() / start.norm()
        return torch.stack([apart, *self._off]).sum()

    def _weigh(self, terms: list[tuple[float, Tensor]]) -> None:
        for weight, slope in terms:
            if self._sum is None:
                self._sum = torch.zeros_like(slope)
            self._sum.add_(slope, alpha=weight)

    def _bend(
        self, tau: float, slope: Tensor, adjoint: Tensor, weights: list[float], at: list[float]
    ) -> None:
        """Add what a line is off by at the calls between two slopes, from a third before them."""
        if not any(1e-9 < share < 1 - 1e-9 for share in at):
            return
        (earlier, first), (previous, value) = self._latest[0], self._latest[-1]
        h = tau - previous
        shape = sum(abs(w) * s * (1 - s) / 2 for w, s in zip(weights, at, strict=True))
        if earlier == previous:
            change = (slope - value).norm()
            off = change * sum(map(abs, weights)) / 2
        else:
            change = ((slope - value) / h - (value - first) / (previous - earlier)).norm()
            off = change * 2 / (tau - earlier) * h**2 * shape
        self._off.append(off / adjoint.norm())
