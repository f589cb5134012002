"""What exponential integration is worth: tables and phrases from exponential.json."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from .writing import read, table

CALLS = (5, 10, 20, 50, 100)
PROCESSES = ("VP linear", "VP cosine", "EDM", "rectified flow")
Sampler = tuple[str, str]


def better_spacings(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each sampler and budget the row of the spacing with the more exact sample."""
    kept: dict[Any, dict[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("process", "network", "solver", "form", "budget"))
        if key not in kept or row["sample_error"] < kept[key]["sample_error"]:
            kept[key] = row
    return list(kept.values())


@cache
def _rows() -> list[dict[str, Any]]:
    return better_spacings(read("exponential")["rows"])


def _found(network: str, process: str, calls: int) -> dict[Sampler, dict[str, Any]]:
    """Return the rows of a problem with a budget, by solver and form."""
    where = {"network": network, "process": process, "budget": calls}
    rows = (row for row in _rows() if where.items() <= row.items())
    return {(row["solver"], row["form"]): row for row in rows}


def _cell(row: dict[str, Any] | None) -> str:
    return f"{row['sample_error']:.2g} / {row['gradient_error']:.2g}" if row else ""


def _by_sampler(
    heads: Iterable[str], columns: list[dict[Sampler, dict[str, Any]]], solvers: tuple[str, ...]
) -> str:
    samplers = dict.fromkeys(sampler for column in columns for sampler in column)
    return table(
        ["solver", "form", *heads],
        (
            [f"`{solver}`", form or "its own", *[_cell(at.get((solver, form))) for at in columns]]
            for solver, form in sorted(samplers, key=lambda sampler: sampler[1] == "")
            if not solvers or solver in solvers
        ),
    )


def errors_by_calls(network: str, process: str, *solvers: str) -> str:
    """Return errors of samples and gradients by number of network calls.

    Args:
        network: as exponential.json names it.
        process: likewise.
        solvers: those to show, by default all.
    """
    columns = [_found(network, process, calls) for calls in CALLS]
    return _by_sampler((f"{calls} calls" for calls in CALLS), columns, solvers)


def errors_by_process(network: str, calls: int, *solvers: str) -> str:
    """Return errors of samples and gradients on all four processes; arguments as above."""
    columns = [_found(network, process, calls) for process in PROCESSES]
    return _by_sampler(PROCESSES, columns, solvers)


def _best(network: str, process: str, calls: int, key: str) -> tuple[str, float]:
    found = _found(network, process, calls)
    solver, form = min(found, key=lambda sampler: found[sampler][key])
    return f"`{solver}`{f', {form}' if form else ''}", found[solver, form][key]


def best_by_calls(key: str) -> str:
    """Return the most exact sampler for each problem and number of calls.

    Args:
        key: ``sample_error`` or ``gradient_error``.
    """
    problems = sorted({(row["network"], row["process"]) for row in _rows()})

    def cell(network: str, process: str, calls: int) -> str:
        name, error = _best(network, process, calls, key)
        return f"{name}: {error:.2g}"

    return table(
        ["data", "process", *[f"{calls} calls" for calls in CALLS]],
        (
            [network, process, *[cell(network, process, calls) for calls in CALLS]]
            for network, process in problems
        ),
    )


def on_the_model(calls: int, solver: str, form: str = "") -> str:
    """Return the errors of one sampler on the embedded model."""
    return _cell(_found("embedded model", "VP scaled linear", calls)[solver, form])


def integrators_ahead(network: str, process: str, key: str) -> str:
    """Return at how many of the numbers of calls an exponential integrator is the most exact."""
    names = [_best(network, process, calls, key)[0] for calls in CALLS]
    return f"{sum(', ' not in name for name in names)} of {len(names)}"


def least(network: str, process: str, calls: int, key: str) -> str:
    """Return the smallest error of all samplers."""
    return f"{_best(network, process, calls, key)[1]:.2g}"


def _ratios(
    network: str, process: str, calls: int, key: str, form: str, than: str
) -> dict[str, float]:
    """Return by solver how many times smaller an error is in one form than in another."""
    rows = _found(network, process, calls)
    return {
        solver: rows[solver, than][key] / row[key]
        for (solver, own), row in rows.items()
        if own == form and (solver, than) in rows
    }


def ahead(network: str, process: str, calls: int, key: str, form: str, than: str) -> str:
    """Return how many ODE methods are more exact in one form than in another.

    Args:
        network: as exponential.json names it.
        process: likewise.
        calls: network calls.
        key: ``sample_error`` or ``gradient_error``.
        form: ``x``, ``noise`` or ``flow``.
        than: the form to compare with.
    """
    found = _ratios(network, process, calls, key, form, than).values()
    return f"{sum(ratio > 1 for ratio in found)} of {len(found)}"


def times_ahead(
    network: str, process: str, calls: int, key: str, form: str, than: str, *solvers: str
) -> str:
    """Return the smallest and the largest of the factors that `ahead` counts, for some solvers."""
    found = _ratios(network, process, calls, key, form, than)
    chosen = [found[solver] for solver in solvers or found]
    return f"{min(chosen):.2g} to {max(chosen):.2g}"


def reference_error(network: str) -> str:
    """Return how far references are from themselves with half their steps, at most."""
    rows = [row for row in read("exponential")["references"] if row["network"] == network]
    sample, gradient = (
        max(row[f"{name}_error"] for row in rows) for name in ("sample", "gradient")
    )
    return f"{sample:.1g} / {gradient:.1g}"
