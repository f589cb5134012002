"""How good the approximate gradient methods are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .writing import read, table

PRODUCTS = (5, 8, 12, 17, 25)


RULES = (
    "interpolated, density 1.5",
    "interpolated, density 1.25",
    "interpolated, equal blocks",
    "unipc_bh2_2, density 1.5",
    "dpmpp_2m, density 1.5",
    "ddim, density 1.5",
    "ddim, equal blocks",
    "adjoint ODE, flow form, ab2",
    "adjoint ODE, noise form, ab2",
)
"""Those of coarse.json, in the order of the tables."""


CHANGES = {
    "nothing": "nothing happens",
    "rounding": "another order of all sums in each run",
    "all weights by 1e-3": "all weights scaled by 1 + 1e-3",
    "one layer by 1e-3": "those of one layer",
}
"""What rounding.json says of changes, in words."""


FORMS = ("flow", "angle", "noise", "data")


REVERSE_SOLVERS = (
    "heun, own grid",
    "heun, 25 steps",
    "heun, 12 steps",
    "ab2, own grid",
    "ab2, 25 steps",
    "euler, own grid",
    "euler, 25 steps",
    "bs3, rtol=1e-2",
    "dopri5, rtol=1e-2",
)
"""Settings of continuous.json, in the order of the table."""


def by_steps() -> str:
    """Return how good `CoarseAdjoint` is, by sampler, steps and share of products."""
    rows = read("coarse_steps")["rows"]
    runs = list(dict.fromkeys((row["scheduler"], row["num_inference_steps"]) for row in rows))

    def cell(row: dict[str, Any]) -> str:
        return f"{row['cosine']:.3f} / {row['relative_error']:.2f} ({row['estimate']:.2f})"

    return table(
        ["sampler, steps", "N/4", "N/3", "N/2", "3N/4"],
        (
            [f"{name}, {steps}"]
            + [cell(r) for r in rows if (r["scheduler"], r["num_inference_steps"]) == (name, steps)]
            for name, steps in runs
        ),
    )


def few_products(scheduler: str, steps: int, products: int) -> dict[str, Any]:
    """Return a row of coarse_steps.json."""
    keys = {"scheduler": scheduler, "num_inference_steps": steps, "products": products}
    [row] = [row for row in read("coarse_steps")["rows"] if keys.items() <= row.items()]
    return row


def by_rule_at_few_steps() -> str:
    """Return cosine and error of other placements of few products, the least error marked."""
    rows = read("coarse_rules")["rows"]
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    runs: dict[tuple[str, int, int], dict[str, Any]] = {}
    for row in rows:
        run = row["scheduler"], row["num_inference_steps"], row["products"]
        runs.setdefault(run, {})[row["rule"]] = row

    def cells(found: dict[str, Any]) -> list[str]:
        errors = [f"{found[rule]['relative_error']:.2f}" for rule in rules]
        texts = [
            f"{found[rule]['cosine']:.2f} / {e}" for rule, e in zip(rules, errors, strict=True)
        ]
        least = min(errors, key=float)
        return [f"**{t}**" if e == least else t for t, e in zip(texts, errors, strict=True)]

    return table(
        ["sampler, steps, M", *rules],
        ([", ".join(map(str, run)), *cells(found)] for run, found in runs.items()),
    )


def estimate_over_error(end: Callable[[Iterable[float]], float]) -> float:
    """Return the lowest or highest ratio of the estimated error to the error, by steps.

    Args:
        end: ``min`` or ``max``.
    """
    return end(row["estimate"] / row["relative_error"] for row in read("coarse_steps")["rows"])


def _rule(scheduler: str, rule: str, calls: int) -> dict[str, float]:
    """Return the lowest cosine and the mean error of a reverse rule."""
    keys = {"scheduler": scheduler, "rule": rule, "reverse_calls": calls}
    rows = [row for row in read("coarse")["rows"] if keys.items() <= row.items()]
    return {
        "cosine": min(row["cosine"] for row in rows),
        "relative_error": sum(row["relative_error"] for row in rows) / len(rows),
    }


def span_of_rules(
    what: str, calls: int, *beginnings: str, scheduler: str = "DDIM DPM-Solver++"
) -> str:
    """Return the span of the cosines or errors of reverse rules.

    Args:
        what: ``cosine`` or ``relative_error``.
        calls: the number of products.
        beginnings: of the names of rules.
        scheduler: of both samplers by default.
    """
    found = [
        _rule(name, rule, calls)[what]
        for name in scheduler.split()
        for rule in RULES
        if rule.startswith(beginnings)
    ]
    return f"{min(found):.2f} to {max(found):.2f}"


def by_rule(scheduler: str) -> str:
    """Return the lowest cosine and mean error of reverse rules, by the number of products."""

    def cell(rule: str, calls: int) -> str:
        found = _rule(scheduler, rule, calls)
        error = found["relative_error"]
        number = f"{error:.2f}" if error < 10 else f"{error:.0e}"
        return f"{found['cosine']:.3f} / {number}"

    return table(
        [f"on {scheduler}", *[f"M = {calls}" for calls in PRODUCTS]],
        ([rule, *[cell(rule, calls) for calls in PRODUCTS]] for rule in RULES),
    )


def told_apart() -> str:
    """Return how many gradients raised after each change, by dtype."""
    rows = {(row["dtype"], row["what"]): row for row in read("rounding")["rows"]}

    def cell(dtype: str, what: str) -> str:
        row = rows[dtype, what]
        change = f"{row['largest_change']:.1g}"
        return f"{row['raised']} of {row['gradients']} (largest change {change})"

    dtypes = ("float32", "bfloat16")
    return table(
        ["measured on a CPU, the embedded model, 4 steps with guidance", *dtypes],
        ([name, *[cell(dtype, what) for dtype in dtypes]] for what, name in CHANGES.items()),
    )


def _continuous(**keys: Any) -> dict[str, Any]:
    """Return the one row of continuous.json with these keys."""
    [row] = [row for row in read("continuous")["rows"] if keys.items() <= row.items()]
    return row


def errors(**keys: Any) -> str:
    """Return the relative errors of one setting of continuous.json."""
    return _errors(_continuous(**keys))


def noise_error(**keys: Any) -> float:
    """Return the relative error of the noise's gradient in one setting of continuous.json."""
    return _continuous(**keys)["errors"]["noise"]["relative_error"]


def _errors(row: dict[str, Any]) -> str:
    """Write the relative errors of noise, embedding and weights."""
    if "refused" in row:
        return "refused"
    return " / ".join(f"{error['relative_error']:.2g}" for error in row["errors"].values())


def by_form() -> str:
    """Return the errors of `ContinuousAdjoint`, by solver and form."""

    def cells(setting: str) -> list[str]:
        rows = [_continuous(setting=setting, form=form) for form in FORMS]
        return [f"{_errors(row)} ({row.get('reverse_calls', '')})" for row in rows]

    return table(["reverse solver", *FORMS], ([name, *cells(name)] for name in REVERSE_SOLVERS))


def by_truncation() -> str:
    """Return the cosines of `Truncated`, by calls and mode."""

    def cells(setting: str) -> list[str]:
        errors = _continuous(setting=setting)["errors"]
        return [f"{error['cosine']:.2f}" for error in errors.values()]

    settings = [f"last={k}, {mode}" for k in (5, 25) for mode in ("detach_steps", "detach_outputs")]
    return table(
        ["cosine, N = 50", "noise", "embedding", "weights"],
        ([setting, *cells(setting)] for setting in settings),
    )


def of_the_ode() -> str:
    """Return how far the gradient of the ODE is from that of the sampler, by steps."""
    steps = (10, 20, 50, 100)
    return table(
        ["sampler", *[f"{n} steps" for n in steps]],
        (
            [
                name,
                *[
                    _errors(_continuous(setting="default", scheduler=name, num_inference_steps=n))
                    for n in steps
                ],
            ]
            for name in ("DDIM", "DPM-Solver++")
        ),
    )


def worst_reversible(what: str) -> str:
    """Return the largest distance of a round trip, or error of a gradient, of `Reversible`.

    Args:
        what: ``round_trip`` or ``relative_error``.
    """
    return f"{max(row[what] for row in read('reversible')['rows']):.0e}"
