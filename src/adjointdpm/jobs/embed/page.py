"""The report of a taught word: a page, pictures, and the numbers for a machine to read."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...report import contact_sheet, curves_svg, render_page, save_picture
from ...storage import write_text
from .results import EmbedResult

ENLARGED = 128
"""Pixels that a small picture is at least wide as a file."""


def write_embed_report(result: EmbedResult, command: str) -> Path:
    """Write ``report.html``, pictures, the loss curve and ``numbers.json`` beside the word.

    Args:
        result: what became of the word.
        command: how the job was called.

    Returns:
        The page.
    """
    folder = Path(result.config.output_dir)
    for when in ("before", "after"):
        sheet = contact_sheet([getattr(v, when) for v in result.validations])
        enlarge = max(1, ENLARGED // result.validations[0].after.shape[-1])
        save_picture(folder / f"{when}.png", sheet, enlarge)
    losses = result.history.losses
    curve = curves_svg(
        {"loss": losses},
        xlabel="update",
        ylabel="loss",
        description=f"The loss of each update, from {losses[0]:.2f} to {losses[-1]:.2f}.",
    )
    write_text(folder / "loss.svg", curve)
    numbers = json.dumps(_numbers(result, command), indent=2, ensure_ascii=False)
    write_text(folder / "numbers.json", numbers + "\n")
    page = render_page(
        "jobs/embed",
        "page.html",
        result=result,
        command=command,
        curve=curve,
        before=_mean(result, "before"),
        after=_mean(result, "after"),
        seconds_per_update=statistics.median(result.history.seconds),
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _mean(result: EmbedResult, when: str) -> float:
    """Return the mean of the metric over all pictures, before or after."""
    return statistics.fmean(
        value for each in result.validations for value in getattr(each, f"metric_{when}")
    )


def _numbers(result: EmbedResult, command: str) -> dict[str, Any]:
    recognised = {when: result.recognised(when) for when in ("before", "after")}
    return {
        "command": command,
        "config": {name: _plain(value) for name, value in asdict(result.config).items()},
        "objective": result.objective,
        "larger_is_better": result.larger_is_better,
        "templates": result.templates,
        "losses": result.history.losses,
        "seconds_of_updates": result.history.seconds,
        "recognised": {when: rate and asdict(rate) for when, rate in recognised.items()},
        "validations": [
            {
                "template": each.template,
                "metric_before": each.metric_before,
                "metric_after": each.metric_after,
                "readings_before": [asdict(reading) for reading in each.readings_before],
                "readings_after": [asdict(reading) for reading in each.readings_after],
            }
            for each in result.validations
        ],
        "seconds": result.seconds,
        "peak_memory_bytes": result.peak_memory,
        "environment": result.environment,
    }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
