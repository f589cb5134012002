"""Gradients side by side, and what they cost."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .writing import RESULTS, read, size, table

CALLS = (10, 50, 200, 1000)


OURS = (
    "Exact",
    "Exact, all graphs kept",
    "Exact, sqrt(N) latents",
    "Backprop",
    "Symplectic",
    "Reversible",
    "CoarseAdjoint, N/4",
    "Truncated, N/4",
    "ContinuousAdjoint, recorded",
    "ContinuousAdjoint, resolved",
    "ContinuousAdjoint, as in the paper",
)


PEERS = (
    "by hand",
    "by hand, torch checkpoint",
    "torchdiffeq odeint",
    "torchdiffeq odeint_adjoint",
    "torchdiffeq odeint_adjoint, states at the grid",
)
"""Those that take part in all contests."""


OTHERS = (
    "torchode AutoDiffAdjoint",
    "torchode BacksolveAdjoint",
    "torchode JointBacksolveAdjoint",
    "diffrax RecursiveCheckpointAdjoint",
    "diffrax BacksolveAdjoint",
)


def worst_error(contest: str, method: str) -> float:
    """Return the largest relative error of a method over all targets, in float64."""
    targets = read("gradients")["errors"][contest][method]["float64"]
    return max(target["relative_error"] for target in targets.values())


def lowest_cosine(contest: str, method: str) -> float:
    """Return the lowest cosine of a method over all targets, in float64."""
    targets = read("gradients")["errors"][contest][method]["float64"]
    return min(target["cosine"] for target in targets.values())


def peak(contest: str, method: str, calls: int) -> str:
    """Return the most bytes that a gradient held at once."""
    found = read("gradients")["memory"][contest][method].get(str(calls))
    return size(found) if found else ""


def ratio(contest: str, method: str, to: str = "network calls") -> float:
    """Return the time of a method, in that of another."""
    time = read("gradients")["time"][contest]
    return time[method]["ratio"] / time[to]["ratio"]


def milliseconds(contest: str, method: str) -> float:
    """Return how long a gradient took."""
    return 1000 * read("gradients")["time"][contest][method]["seconds"]


def side_by_side(contest: str, methods: Sequence[str]) -> str:
    """Return errors, time and memory of gradient methods on one problem."""
    return table(
        ["method", "largest error", "lowest cosine", "time", *[f"peak, N = {n}" for n in CALLS]],
        (
            [
                method,
                f"{worst_error(contest, method):.1g}",
                f"{lowest_cosine(contest, method):.3f}",
                f"{ratio(contest, method):.2f}",
                *[peak(contest, method, calls) for calls in CALLS],
            ]
            for method in methods
        ),
    )


def measured_on(phase: str) -> str:
    """Say on what machine and with which versions a phase of gradients.json was measured."""
    settings = read("gradients")["settings"][phase]
    machine = settings["machine"]
    return f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}"


def faster(peer: str, method: str) -> str:
    """Return how many times as fast as a peer a method is, from contest to contest."""
    times = read("gradients")["time"]
    found = [ratio(contest, peer, method) for contest in times if "mixture" not in contest]
    return f"{min(found):.2f} to {max(found):.2f}"


def goals_missed(what: str = "") -> str:
    """Return how many of the goals in gradients_table.md are missed, of all.

    Args:
        what: of those that the table calls so, one a contest; by default of all.
    """
    written = (RESULTS / "gradients_table.md").read_text()
    rows = re.findall(r"^.* (?:held|\*\*missed\*\*) \|$", written, re.MULTILINE)
    asked = [row for row in rows if f"| {what} |" in row or not what]
    return f"{sum('missed' in row for row in asked)} of {len(asked)}"


def peak_beside(method: str, peer: str, calls: int) -> str:
    """Return the peak of a method in that of a peer, from contest to contest."""
    peaks = read("gradients")["memory"]
    found = [
        peaks[contest][method][str(calls)] / peaks[contest][peer][str(calls)]
        for contest in peaks
        if "mixture" not in contest
    ]
    return f"{min(found):.2f} to {max(found):.2f}"


def worst_prediction(what: str) -> float:
    """Return how far `Sampler.cost` was off at most, in seconds or peak memory."""
    rows = read("cost")["rows"] + read("cost_weights")["rows"]
    return max(abs(row[f"{what}_ratio"] - 1) for row in rows)


def time_against_memory(contest: str) -> str:
    """Return time, peaks and error of all that take part in a contest, the fastest first."""
    methods = [m for m in (*OURS, *PEERS, *OTHERS) if m in read("gradients")["time"][contest]]

    def line(method: str) -> list[str]:
        return [
            method,
            f"{ratio(contest, method):.2f}",
            *[peak(contest, method, calls) for calls in (10, 50, 200)],
            f"{worst_error(contest, method):.1g}",
        ]

    return table(
        ["method", "time", "peak, N = 10", "N = 50", "N = 200", "largest error"],
        map(line, sorted(methods, key=lambda method: ratio(contest, method))),
    )
