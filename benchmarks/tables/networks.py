"""What gradients cost by kind and size of the network, and what exponential integration gives."""

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


def times(method: str, to: str, *groups: str) -> str:
    """Return the range of a method's time in that of another.

    Args:
        method: as the rows of architectures.json name it.
        to: likewise; ``sample`` is drawing the sample once.
        groups: of networks; by default all.
    """
    rows = [row for group in groups for row in _networks(group).values()] or _all_networks()
    found = [row["time"][method] / row["time"][to] for row in rows]
    return f"{min(found):.2f} to {max(found):.2f}"


def product_cost() -> str:
    """Return the range of a product's time in that of a network call, over all networks."""
    found = [row["steps"] * row["time"]["one call"] - 1 for row in _all_networks()]
    return f"{min(found):.2f} to {max(found):.2f}"


WAYS = (
    ("x", "kept"),
    ("noise", "kept"),
    ("noise", "taken out"),
    ("flow", "kept"),
    ("flow", "taken out"),
    ("", "taken out"),
)
"""Forms of semilinear.json, and what became of the linear term."""


def by_field(order: int, budget: int) -> str:
    """Return the errors of one order's solvers on fields that are less and less linear."""
    head = ["data, guidance", "N / f", "x, t", "x, noise's time", "noise form"]
    head += ["x, flow's time", "flow form"]
    rows = read("semilinear")["rows"]
    own = next(e["solver"] for e in rows[0]["errors"] if e["order"] == order and not e["form"])

    def cells(row: dict[str, Any]) -> list[str]:
        found = {
            (error["form"], error["linear_term"]): error
            for error in row["errors"]
            if (error["order"], error["budget"]) == (order, budget)
        }
        return [
            f"{found[way]['sample_error']:.2g} / {found[way]['gradient_error']:.2g}" for way in WAYS
        ]

    return table(
        [*head, own],
        (
            [
                f"{row['width']:g}, {row['guidance_scale']:g}",
                f"{row['nonlinearity']:.1f}",
                *cells(row),
            ]
            for row in rows
        ),
    )


def taking_out(key: str, *orders: int, form: str = "", wide: bool = False) -> str:
    """Return how many times smaller errors are without the linear term, in the same time.

    Args:
        key: ``sample_error`` or ``gradient_error``, with 20 calls.
        orders: of the methods of Adams.
        form: in whose time; by default both.
        wide: on data as wide as the noise, or on the narrow ones.
    """
    ratios = []
    for row in read("semilinear")["rows"]:
        if (row["width"] == 1) == wide:
            errors = {
                (error["order"], error["form"], error["linear_term"]): error[key]
                for error in row["errors"]
                if error["budget"] == 20
            }
            ratios += [
                errors[order, name, "kept"] / errors[order, name, "taken out"]
                for order in orders
                for name in ((form,) if form else ("noise", "flow"))
            ]
    return f"{min(ratios):.2g} to {max(ratios):.2g}"


def own_against_adams(key: str, order: int) -> str:
    """Return how many times more exact an exponential integrator is than the best of Adams.

    Args:
        key: ``sample_error`` or ``gradient_error``, with 20 calls, on narrow data.
        order: of both.
    """
    ratios = []
    for row in read("semilinear")["rows"]:
        if row["width"] < 1:
            errors = [e for e in row["errors"] if (e["order"], e["budget"]) == (order, 20)]
            [own] = [error[key] for error in errors if not error["form"]]
            ratios.append(min(error[key] for error in errors if error["form"]) / own)
    return f"{min(ratios):.2g} to {max(ratios):.2g}"


def narrow_median(solver: str, key: str) -> str:
    """Return an error with 20 calls on the mixture of width 0.1, without guidance."""
    [row] = [
        row
        for row in read("semilinear")["rows"]
        if (row["width"], row["guidance_scale"]) == (0.1, 1)
    ]
    [error] = [e for e in row["errors"] if (e["solver"], e["budget"]) == (solver, 20)]
    return f"{error[key]:.2g}"
