"""What the results of an audit come to: rates with intervals, distances, costs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...evaluation import SetDistance, SuccessRate, set_distance, success_rate
from ...features import FeatureNetwork
from .panel import read_picture

FEWEST_PICTURES = 20
"""Fewer pictures say nothing about the distance of two sets."""
DISTANCES = ("linf", "l2", "ssim", "perceptual", "pixel_l2")


@dataclass(frozen=True)
class Spread:
    """The middle and the quartiles of numbers."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return those of at least one number."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low, median, high)


@dataclass(frozen=True)
class Summary:
    """What an audit found. Where there is nothing to count, a rate is None.

    Args:
        items: how many there were.
        failed: how many have no result, since their worker died or gave numbers that are not
            finite.
        accuracy: of the classifier on the pictures as they are drawn.
        fooled_last: of those that it got right, how many it gets wrong at the last noise.
        fooled: the same for the strongest noise, which counts.
        fooled_and_seen: of those that it got right and in which the judge saw the true class, how
            many it gets wrong while the judge still sees the true class.
        seen: of the pictures that fool it, in how many the judge still sees the true class, among
            those in which it did at the start.
        transfer: of the pictures that fool it, how many also fool another, of those that this one
            got right at the start.
        distances: of the pictures that fool it from their starts, by name.
        evaluations: sampling runs with their gradient, for those that were fooled.
        inversion: for items that began with a picture, how far what is drawn from its noise is from
            it, as latents, relative to their length.
        to_starts: distance of the pictures that fool it from their own starts, as sets.
        to_others: their distance from pictures that were drawn for other items and not attacked.
        starts_to_others: for comparison, that of their starts from the same pictures.
        network_calls: of all items; a product with a Jacobian counts as a call.
        item_seconds: of all items.
        zero_gradients: how many gradients were zero: more than a few mean that the classifier hides
            its gradient, and the rates are too low.
    """

    items: int
    failed: int
    accuracy: SuccessRate | None
    fooled_last: SuccessRate | None
    fooled: SuccessRate | None
    fooled_and_seen: SuccessRate | None
    seen: SuccessRate | None
    transfer: dict[str, SuccessRate | None]
    distances: dict[str, Spread]
    evaluations: Spread | None
    inversion: Spread | None
    to_starts: SetDistance | None
    to_others: SetDistance | None
    starts_to_others: SetDistance | None
    network_calls: int
    item_seconds: float
    zero_gradients: int


def summarize(
    results: Sequence[Mapping[str, Any]], folder: Path, network: FeatureNetwork
) -> Summary:
    """Return what results come to. All that is said of a picture is said of its 8-bit file.

    Args:
        results: one an item.
        folder: where their pictures are.
        network: whose features say how far sets of pictures are from each other.
    """
    whole = [r for r in results if "error" not in r and r["status"] != "not finite"]
    attacked = [r for r in whole if r["start"]["answer"] == r["label"]]
    fooled = [r for r in attacked if is_fooled(r, "best")]
    seen_first = [r for r in attacked if r["start"]["judge"] == r["label"]]
    names = sorted({name for r in whole for name in r["start"]["transfer"]})
    others = [r for r in whole if r not in fooled]
    errors = [r["inversion_error"] for r in whole if r["inversion_error"] is not None]
    sets = _Sets(folder, network)
    return Summary(
        items=len(results),
        failed=len(results) - len(whole),
        accuracy=_rate(whole, lambda r: r["start"]["answer"] == r["label"]),
        fooled_last=_rate(attacked, lambda r: is_fooled(r, "last")),
        fooled=_rate(attacked, lambda r: is_fooled(r, "best")),
        fooled_and_seen=_rate(seen_first, lambda r: is_fooled(r, "best") and still_seen(r)),
        seen=_rate([r for r in fooled if r in seen_first], still_seen),
        transfer={name: _transferred(fooled, name) for name in names},
        distances={
            name: Spread.of(values)
            for name in DISTANCES
            if (values := [r["best"][name] for r in fooled if r["best"][name] is not None])
        },
        evaluations=Spread.of([r["evaluations"] for r in fooled]) if fooled else None,
        inversion=Spread.of(errors) if errors else None,
        to_starts=sets.distance((fooled, "best"), (fooled, "start")),
        to_others=sets.distance((fooled, "best"), (others, "start")),
        starts_to_others=sets.distance((fooled, "start"), (others, "start")),
        network_calls=sum(r["network_calls"] for r in whole),
        item_seconds=sum(r["seconds"] for r in whole),
        zero_gradients=sum(r["zero_gradients"] for r in whole),
    )


def is_fooled(result: Mapping[str, Any], which: str) -> bool:
    """Return whether the classifier gets a picture wrong, or says the target if there is one.

    Args:
        result: of an item.
        which: ``last`` or ``best``.
    """
    if which == "last" and not result["last"]["within"]:
        return False
    answer, target = result[which]["answer"], result["target"]
    return answer != result["label"] if target is None else answer == target


def still_seen(result: Mapping[str, Any]) -> bool:
    """Return whether the judge sees the true class in the strongest picture."""
    return result["best"]["judge"] == result["label"]


def _rate(
    results: Iterable[Mapping[str, Any]], yes: Callable[[Mapping[str, Any]], bool]
) -> SuccessRate | None:
    outcomes = [yes(result) for result in results]
    return success_rate(outcomes) if outcomes else None


def _transferred(fooled: Sequence[Mapping[str, Any]], name: str) -> SuccessRate | None:
    """Return how many pictures that fool also fool another classifier, which knew their starts."""
    known = [r for r in fooled if r["start"]["transfer"][name] == r["label"]]
    return _rate(known, lambda r: r["best"]["transfer"][name] != r["label"])


class _Sets:
    """Distances of sets of pictures."""

    def __init__(self, folder: Path, network: FeatureNetwork) -> None:
        self._folder, self._network = folder, network

    def distance(
        self,
        first: tuple[Sequence[Mapping[str, Any]], str],
        second: tuple[Sequence[Mapping[str, Any]], str],
    ) -> SetDistance | None:
        """Return the distance of two sets; None where one is too small."""
        if min(len(first[0]), len(second[0])) < FEWEST_PICTURES:
            return None
        return set_distance(self._read(*first), self._read(*second), self._network)

    def _read(self, results: Sequence[Mapping[str, Any]], which: str) -> Tensor:
        return torch.stack([read_picture(self._folder / r[which]["picture"]) for r in results])
