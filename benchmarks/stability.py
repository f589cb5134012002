"""A map of numerical stability: solver x network calls x process, on directions of every width.

    python benchmarks/stability.py    # some seconds

Where the data are normal with standard deviation s in a direction, the exact network is linear, and
a sampler multiplies the noise in that direction by a number F(s) that its table gives at once. The
ODE multiplies it by F*(s), about s. The gradient for the noise is multiplied by the same number, so
that what is unstable for samples is unstable for gradients. For each sampler: the largest
``|F(s) - F*(s)|`` over s from 0.001 to 1, in units in which the data have size 1. Above 1 a sampler
adds more to a direction than all the data have. Results go to stability.json and stability.png.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from odes import PROCESSES, largest_plan, plan_of
from stamp import stamp

import adjointdpm as adp

SAMPLERS = (
    *((solver, form) for solver in ("euler", "heun", "rk4", "ab2", "ab4")
      for form in ("x", "noise", "flow", "angle")),
    ("dpmpp_2m", ""), ("dpmpp_3m", ""), ("deis3", ""), ("unipc_bh2_2", ""), ("unipc_bh2_3", ""),
)  # fmt: skip
CALLS = (4, 6, 8, 10, 15, 20, 30, 50, 100)
WIDTHS = np.geomspace(1e-3, 1, 61)


def gains(plan: adp.Plan, schedule: adp.Schedule) -> np.ndarray:
    """Return F(s) for all widths."""
    values = np.zeros((plan.table.shape[1], len(WIDTHS)))
    values[0] = 1
    for k, t in enumerate(plan.timesteps):
        alpha, sigma = schedule.alpha(float(t)), schedule.sigma(float(t))
        variance = alpha**2 * WIDTHS**2 + sigma**2
        # v = alpha eps - sigma x_0, both of which are multiples of x.
        values[1 + k] = alpha * sigma * (1 - WIDTHS**2) / variance * (plan.table[k] @ values)
    return plan.table[-1] @ values


def exact_gains(schedule: adp.Schedule) -> np.ndarray:
    """Return what the ODE multiplies the noise by, from the first time to the last."""
    (a, s), (b, r) = (
        (schedule.alpha(t), schedule.sigma(t)) for t in (schedule.t_max, schedule.t_min)
    )
    start = schedule.init_noise_sigma(schedule.t_max)
    return start * np.sqrt((b**2 * WIDTHS**2 + r**2) / (a**2 * WIDTHS**2 + s**2))


def measure() -> Iterator[dict[str, Any]]:
    """Yield a row for every process, spacing, sampler and number of calls."""
    for process, (schedule, spacings) in PROCESSES.items():
        exact = exact_gains(schedule)
        for spacing in spacings:
            for solver, form in SAMPLERS:
                for calls in CALLS:
                    make = partial(plan_of, solver, form, schedule, spacing, "v_prediction")
                    plan = largest_plan(make, calls)
                    if plan is None:
                        continue
                    off = np.abs(gains(plan, schedule) - exact)
                    worst = int(off.argmax())
                    yield {
                        "process": process, "spacing": spacing, "solver": solver, "form": form,
                        "budget": calls, "calls": plan.num_calls,
                        "largest_error": float(f"{off[worst]:.3e}"),
                        "at_width": float(f"{WIDTHS[worst]:.2e}"),
                    }  # fmt: skip


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((row["process"], row["spacing"]) for row in rows))
    figure = Figure(figsize=(15, 14), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, math.ceil(len(panels) / 2), sharex=True, sharey=True).ravel()
    image = None
    for ax, panel in zip(grid, panels, strict=False):
        table = np.full((len(SAMPLERS), len(CALLS)), np.nan)
        for row in rows:
            if (row["process"], row["spacing"]) == panel:
                at = SAMPLERS.index((row["solver"], row["form"])), CALLS.index(row["budget"])
                table[at] = math.log10(row["largest_error"])
        image = ax.imshow(table, vmin=-4, vmax=1, cmap="RdYlGn_r", aspect="auto")
        for (i, j), value in np.ndenumerate(table):
            if not np.isnan(value):
                text = "x" if value > 0 else f"{value:.1f}"
                ax.text(j, i, text, ha="center", va="center", fontsize=7)
        ax.set_title(", ".join(panel), fontsize=10)
        ax.set_xticks(range(len(CALLS)), CALLS)
        labels = [f"{solver}, {form}" if form else solver for solver, form in SAMPLERS]
        ax.set_yticks(range(len(SAMPLERS)), labels, fontsize=8)
    for ax in grid[len(panels) :]:
        ax.axis("off")
    figure.supxlabel("network calls")
    figure.colorbar(image, ax=grid.tolist(), shrink=0.4, label="log10 of the largest error")
    figure.savefig(path, dpi=80)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    options = parser.parse_args(arguments)
    rows = list(measure())
    content = stamp()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    head = json.dumps(content, indent=1).removesuffix("\n}")
    (options.output_dir / "stability.json").write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n')
    plot(rows, options.output_dir / "stability.png")


if __name__ == "__main__":
    main()
