"""Audits of classifiers."""

from __future__ import annotations

from typing import Any

from .writing import read, table


def _audit(part: str) -> dict[str, Any]:
    return read("audit")["parts"][part]


def _of(rate: dict[str, Any] | None) -> str:
    """Write a success rate with its interval; there is none where nothing was to be counted."""
    if rate is None:
        return "none to count"
    low, high = 100 * rate["low"], 100 * rate["high"]
    return f"{rate['successes']} of {rate['trials']} ({low:.0f} to {high:.0f} %)"


RATES = {
    "accuracy": "right about pictures as they are drawn",
    "fooled_last": "of those, fooled at the last noise",
    "fooled": "fooled at the strongest noise",
    "fooled_and_seen": "fooled while the judge sees the true class",
    "seen": "of the fooled, the judge still sees the true class",
}


def audit_rates(part: str) -> str:
    """Return the rates of an audit."""
    row = _audit(part)
    return table(
        ["", "pictures (95 % interval)"], ([name, _of(row[key])] for key, name in RATES.items())
    )


def audit_batches(max_steps: int) -> str:
    """Return what batches of three kinds took, with so many steps at most."""
    rows = _audit(f"batching, {max_steps} steps")["rows"]

    def cells(row: dict[str, Any]) -> list[str]:
        return [
            f"{row['rows_evaluated']}",
            f"{row['cpu_seconds']:.0f}",
            f"{row['items_per_minute']:.1f}",
        ]

    return table(
        ["batches", "gradients computed", "CPU s", "pictures a minute"],
        ([name, *cells(row)] for name, row in rows.items()),
    )


def audit_methods() -> str:
    """Return how often attacks succeed in equal CPU seconds, by gradient method."""
    part = _audit("methods")

    def cells(name: str, row: dict[str, Any]) -> list[str]:
        price = part["cpu_seconds_of_one"][name]
        taken = row["cpu_seconds"] / part["items"]
        return [
            f"{price:.2f}",
            f"{row['max_steps']}",
            f"{row['limit']:.1f}",
            f"{taken:.1f}",
            _of(row["fooled"]),
            _of(row["fooled_and_seen"]),
        ]

    head = ["CPU s a gradient", "steps", "CPU s a picture, at most", "CPU s a picture, taken"]
    return table(
        ["gradient", *head, "fooled (95 % interval)", "and the judge sees it"],
        (
            [f"`{name}`".replace(", as in the paper`", "`, as in the paper"), *cells(name, row)]
            for name, row in part["rows"].items()
        ),
    )


def audit_pair(one: str, other: str) -> str:
    """Return how many pictures only one gradient method fooled with, and only the other."""
    rows = _audit("methods")["rows"]
    first, second = (set(rows[name]["fooled_items"]) for name in (one, other))
    return f"{len(first - second)} to {len(second - first)}"


def audit_training() -> str:
    """Return what training on what was found changes."""
    row = _audit("training")
    return table(
        ["pictures that were not trained on", "before", "after"],
        (
            [name, _of(row["before"][key]), _of(row["after"][key])]
            for key, name in RATES.items()
            if row["after"][key] is not None
        ),
    )
