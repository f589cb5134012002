"""Curves, drawn so that they can be read on light and dark pages."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

GREY = "#808080"
COLOURS = ("#2f7ed8", "#d9822b")


def curves_svg(
    curves: Mapping[str, Sequence[float]], xlabel: str, ylabel: str, title: str = ""
) -> str:
    """Return a line plot as SVG text.

    Args:
        curves: values by step, from step 0, of each labelled line.
        xlabel: what a step is.
        ylabel: what the values are.
        title: above the plot.
    """
    # The object interface: no display is asked for and no state of the caller's pyplot is touched.
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context({"svg.hashsalt": "adjointdpm", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(5.6, 2.8), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        for colour, (label, values) in zip(COLOURS, curves.items(), strict=False):
            axes.plot(range(len(values)), values, color=colour, label=label, linewidth=1.8)
        axes.set_xlabel(xlabel, color=GREY)
        axes.set_ylabel(ylabel, color=GREY)
        axes.set_title(title, color=GREY)
        axes.tick_params(colors=GREY)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(GREY)
        if len(curves) > 1:
            axes.legend(frameon=False, labelcolor=GREY)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()
