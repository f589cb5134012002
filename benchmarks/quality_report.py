"""FID and KID with their intervals, of features, and the plot over network calls.

Intervals are of 95 %, from a jackknife that leaves out one of 20 groups of samples at a time; the
reference is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adjointdpm.evaluation import FeatureStatistics, frechet_distance

GROUPS = 20


def kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def within(a: Tensor) -> Tensor:
    """Return the mean kernel of all pairs of two different pictures."""
    values = kernel(a, a)
    return (values.sum() - values.trace()) / (len(a) * (len(a) - 1))


def fid(samples: Tensor, reference: FeatureStatistics) -> float:
    return frechet_distance(FeatureStatistics.of(samples), reference)


@dataclass(frozen=True)
class Estimate:
    """A number from all samples, and those from the samples without each of the groups.

    Differences of two have the interval of what differs: two solvers begin with the same noises.
    """

    value: float
    left_out: np.ndarray

    @classmethod
    def of(cls, measure: Callable[[Tensor], float], samples: Tensor) -> Estimate:
        """Measure samples as a whole and without each group."""
        group = torch.arange(len(samples)) % GROUPS
        left_out = [measure(samples[group != g]) for g in range(GROUPS)]
        return cls(measure(samples), np.array(left_out))

    def __sub__(self, other: Estimate) -> Estimate:
        return Estimate(self.value - other.value, self.left_out - other.left_out)

    def interval(self) -> dict[str, float]:
        """Return the value and half of its 95 % interval."""
        error = np.sqrt((len(self.left_out) - 1) * self.left_out.var())
        return {"value": self.value, "half_width": float(1.96 * error)}


def distances(samples: Tensor, reference: Tensor) -> dict[str, Estimate]:
    """Return FID and KID x 1000 in features divided by the reference's root mean square."""
    scale = reference.square().mean().sqrt()
    samples, reference = samples / scale, reference / scale
    statistics = FeatureStatistics.of(reference)
    of_reference = within(reference)

    def kid(samples: Tensor) -> float:
        """Return KID on all pictures at once, unbiased (arXiv 1801.01401, eq. 4)."""
        across = kernel(samples, reference).mean()
        return 1000 * float(within(samples) + of_reference - 2 * across)

    return {
        "fid": Estimate.of(partial(fid, reference=statistics), samples),
        "kid_x_1000": Estimate.of(kid, samples),
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = list(dict.fromkeys((row["reference"], row["feature_network"]) for row in rows))
    figure = Figure(figsize=(9, 3.4 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(lines), 2, squeeze=False)
    for (reference, network), axes in zip(lines, grid, strict=True):
        here = [r for r in rows if (r["reference"], r["feature_network"]) == (reference, network)]
        for key, ax in zip(("fid", "kid_x_1000"), axes, strict=True):
            for solver in dict.fromkeys(row["solver"] for row in here):
                found = sorted(
                    (row["calls"], row[key]["value"], row[key]["half_width"])
                    for row in here
                    if row["solver"] == solver
                )
                calls, values, widths = zip(*found, strict=True)
                ax.errorbar(calls, values, widths, marker="o", capsize=3, label=solver)
            ax.set(xlabel="network calls", ylabel=key.replace("_", " "))
            ax.set_title(f"{network}, to {reference}", fontsize=8)
            ax.set_xticks(sorted({row["calls"] for row in here}))
            ax.legend()
    figure.savefig(path, dpi=110)
