"""How often something succeeded, with an interval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist


@dataclass(frozen=True)
class SuccessRate:
    """A share of trials that succeeded, with its Wilson interval.

    Args:
        successes: how many succeeded.
        trials: how many there were.
        low: lower end of the interval.
        high: upper end of the interval.
        confidence: how often such an interval holds the true rate.
    """

    successes: int
    trials: int
    low: float
    high: float
    confidence: float

    @property
    def rate(self) -> float:
        """The share that succeeded."""
        return self.successes / self.trials

    def __str__(self) -> str:
        return (
            f"{self.rate:.0%} ({self.successes} of {self.trials}; {self.confidence:.0%} interval "
            f"{self.low:.0%} to {self.high:.0%})"
        )


def success_rate(outcomes: Iterable[bool], confidence: float = 0.95) -> SuccessRate:
    """Return the share of outcomes that are true, with its Wilson interval.

    Args:
        outcomes: one for each trial; trials are taken to be independent.
        confidence: how often such an interval holds the true rate.

    >>> print(success_rate([True] * 9 + [False]))
    90% (9 of 10; 95% interval 60% to 98%)
    """
    listed = [bool(outcome) for outcome in outcomes]
    low, high = wilson_interval(sum(listed), len(listed), confidence)
    return SuccessRate(sum(listed), len(listed), low, high, confidence)


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a rate.

    Unlike the normal approximation it stays in [0, 1], and says something where all or none of a
    few trials succeeded (Wilson, 1927, J. Am. Stat. Assoc. 22).

    Args:
        successes: how many succeeded.
        trials: how many there were.
        confidence: how often such an interval holds the true rate.

    Raises:
        ValueError: no trials, more successes than trials, or a confidence outside (0, 1).

    >>> low, high = wilson_interval(0, 12)
    >>> round(low, 3), round(high, 3)
    (0.0, 0.242)
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials have no rate")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / trials
    centre = rate + z**2 / (2 * trials)
    width = z * sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z**2 / trials
    # At the ends the formula gives 0 and 1 up to rounding.
    low = 0.0 if successes == 0 else (centre - width) / scale
    high = 1.0 if successes == trials else (centre + width) / scale
    return low, high
