"""What gradients cost by kind and size of the network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .writing import read, size, table


def _networks(group: str) -> dict[str, dict[str, Any]]:
    return read("architectures")["groups"][group]


def by_network(group: str) -> str:
    """Return errors, time and memory of gradients through the networks of a group."""
    head = ["network", "weights", "sample", "time of the calls", "`Exact`", "checkpoints"]
    head += ["autograd", "`ContinuousAdjoint`", "peak of one call"]
    head += ["`Exact`", "checkpoints", "autograd"]

    def cells(row: dict[str, Any]) -> list[str]:
        time, peak = row["time"], row["peak_bytes"]
        methods = ("Exact", "checkpoints", "autograd")
        return [
            f"{row['parameters'] / 1e6:.3g} M",
            " × ".join(map(str, row["shape"])),
            f"{1 + row['steps'] * time['one call']:.2f}",
            *[f"{time[name]:.2f}" for name in (*methods, "ContinuousAdjoint")],
            size(peak["one call"]),
            *[f"{peak[name] / peak['one call']:.2f}" for name in methods],
        ]

    return table(head, ([name, *cells(row)] for name, row in _networks(group).items()))


def exactness() -> str:
    """Return how far gradients are from those of autograd, by architecture."""
    head = ["network", "through the network", "error of `Exact`", "checkpoints"]

    def cells(row: dict[str, Any]) -> list[str]:
        error = row["error"]
        return [
            f"{100 * row['through_the_network']:.0f} %",
            f"{error['Exact']:.1g}",
            f"{error['checkpoints']:.1g}",
            f"{error['ContinuousAdjoint']:.2g} / {row['cosine']['ContinuousAdjoint']:.3f}",
        ]

    return table(
        [*head, "`ContinuousAdjoint`: error / cosine"],
        ([name, *cells(row)] for name, row in _networks("architecture").items()),
    )


def _all_networks() -> Iterable[dict[str, Any]]:
    return (row for rows in read("architectures")["groups"].values() for row in rows.values())


def largest_error_of_exact(dtype: str) -> float:
    """Return the largest relative error of `Exact`, over all networks compared in a dtype."""
    return max(row["error"]["Exact"] for row in _all_networks() if row["dtype"] == dtype)


def time_beside(method: str, other: str, *groups: str) -> str:
    """Return the range of a method's time in that of another.

    Args:
        method: as the rows of architectures.json name it.
        other: likewise; ``sample`` is drawing the sample once.
        groups: of networks; by default all.
    """
    rows = [row for group in groups for row in _networks(group).values()] or _all_networks()
    found = [row["time"][method] / row["time"][other] for row in rows]
    return f"{min(found):.2f} to {max(found):.2f}"


def product_cost() -> str:
    """Return the range of a product's time in that of a network call, over all networks."""
    found = [row["steps"] * row["time"]["one call"] - 1 for row in _all_networks()]
    return f"{min(found):.2f} to {max(found):.2f}"
