"""Curves, drawn so that they can be read on light and dark pages."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence

LIGHT, DARK = "#5c6670", "#9aa5b0"
"""Text and axes on light and dark pages: no grey has enough contrast to both."""
INK = "#808080"
"""Stands for either while matplotlib draws."""
COLOURS = ("#2f7ed8", "#c9701a")
STYLE = (
    f"<style>svg {{ color: {LIGHT} }} "
    f"@media (prefers-color-scheme: dark) {{ svg {{ color: {DARK} }} }}</style>"
)


def losses_svg(losses: Sequence[float], xlabel: str = "update", ylabel: str = "loss") -> str:
    """Return a plot of the losses of a run as SVG text."""
    description = f"The loss of each {xlabel}, from {losses[0]:.3g} to {losses[-1]:.3g}."
    return curves_svg({"loss": losses}, xlabel, ylabel, description=description)


def curves_svg(
    curves: Mapping[str, Sequence[float]],
    xlabel: str,
    ylabel: str,
    title: str = "",
    description: str = "",
) -> str:
    """Return a line plot as SVG text.

    Args:
        curves: values by step, from step 0, of each labelled line.
        xlabel: what a step is.
        ylabel: what the values are.
        title: above the plot.
        description: a sentence for whoever does not see it; the labels of the curves by default.
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
        axes.set_xlabel(xlabel, color=INK)
        axes.set_ylabel(ylabel, color=INK)
        axes.set_title(title, color=INK)
        axes.tick_params(colors=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(INK)
        if len(curves) > 1:
            axes.legend(frameon=False, labelcolor=INK)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    label = html.escape(description or f"{ylabel} by {xlabel}: {', '.join(curves)}")
    svg = buffer.getvalue().replace(INK, "currentColor")
    return re.sub(r"(<svg [^>]*)>", rf'\1 role="img" aria-label="{label}">{STYLE}', svg, count=1)
