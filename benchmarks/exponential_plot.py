"""The picture of exponential.json: errors over network calls, a column for each process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tables.exponential import CALLS, better_spacings

COLOURS = {
    "euler": "C0",
    "rk4": "C2",
    "ab2": "C3",
    "dpmpp_2m": "C5",
    "deis3": "C6",
    "unipc_bh2_2": "C7",
    "unipc_bh2_3": "k",
}
STYLES = {"x": "--", "noise": "-", "flow": ":", "": "-."}
"""By form; exponential integrators have one of their own."""


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw a few of the solvers on all data but the smooth mixture."""
    best = [
        row
        for row in better_spacings(rows)
        if row["network"] != "smooth mixture" and row["solver"] in COLOURS
    ]
    columns = list(dict.fromkeys((row["network"], row["process"]) for row in best))
    samplers = sorted({(row["solver"], row["form"]) for row in best}, key=_place)
    figure = Figure(figsize=(3.6 * len(columns), 8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(columns), sharex=True, sharey="row", squeeze=False)
    for line, key in zip(grid, ("sample_error", "gradient_error"), strict=True):
        for ax, column in zip(line, columns, strict=True):
            for solver, form in samplers:
                points = [
                    (row["calls"], row[key])
                    for row in best
                    if (row["network"], row["process"]) == column
                    and (row["solver"], row["form"]) == (solver, form)
                ]
                label = f"{solver}, {form}" if form else solver
                ax.plot(
                    [calls for calls, _ in points], [error for _, error in points],
                    STYLES[form], color=COLOURS[solver], marker="o", markersize=3, label=label,
                )  # fmt: skip
            ax.set(xscale="log", yscale="log")
            ax.set_xticks(CALLS, map(str, CALLS))
            ax.minorticks_off()
            ax.grid(alpha=0.3)
        line[0].set_ylabel(f"relative error of the {key.removesuffix('_error')}")
    grid[0][0].set_ylim(1e-5, 3)
    grid[1][0].set_ylim(1e-3, 5)
    for ax, (network, process) in zip(grid[0], columns, strict=True):
        ax.set_title(f"{network}\n{process}", fontsize=10)
    for ax in grid[1]:
        ax.set_xlabel("network calls")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False)
    figure.savefig(path, dpi=100)


def _place(sampler: tuple[str, str]) -> tuple[int, int]:
    solver, form = sampler
    return list(COLOURS).index(solver), list(STYLES).index(form)
