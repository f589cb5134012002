"""What taking out the linear term gives on fields that are less and less linear."""

from __future__ import annotations

from typing import Any

from .writing import read, table

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
