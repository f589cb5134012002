"""The report of the demo: a page, pictures, and the numbers for a machine to read."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ...report import contact_sheet, curves_svg, render_page, save_picture
from ...storage import write_text
from .run import DemoResult, Part

ENLARGE = 4


def write_demo_report(result: DemoResult, command: str) -> Path:
    """Write ``report.html``, pictures, loss curves and ``numbers.json`` beside the run's tensors.

    Args:
        result: what the demo found.
        command: how it was called.

    Returns:
        The page.
    """
    folder = Path(result.config.output_dir)
    parts = (result.noise, result.embedding)
    for part in parts:
        sheet = contact_sheet([strip.pictures for strip in part.strips])
        save_picture(folder / f"{part.name}.png", sheet, ENLARGE)
        for number, strip in enumerate(part.strips, start=1):
            for when, index in (("before", 0), ("after", -1)):
                path = folder / f"{part.name}-{number}-{when}.png"
                save_picture(path, strip.pictures[index], ENLARGE)
    curve = curves_svg(
        {part.name: part.history.losses for part in parts},
        xlabel="update",
        ylabel="loss: −log probability",
        description=_describe_losses(parts),
    )
    write_text(folder / "loss.svg", curve)
    numbers = json.dumps(_numbers(result, command), indent=2, ensure_ascii=False)
    write_text(folder / "numbers.json", numbers + "\n")
    page = render_page(
        "jobs/demo",
        "page.html",
        result=result,
        noise=_summary(result.noise),
        embedding=_summary(result.embedding),
        curve=curve,
        command=command,
        error=f"{result.gradient_error:.0e}",
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _describe_losses(parts: Sequence[Part]) -> str:
    """Return what the plot of the losses shows, for whoever does not see it."""
    ends = [
        f"{part.name} from {part.history.losses[0]:.2f} to {part.history.losses[-1]:.2f}"
        for part in parts
    ]
    return f"The loss at each update: {', '.join(ends)}."


def _summary(part: Part) -> dict[str, Any]:
    def mean(values: list[float]) -> float:
        return statistics.fmean(values)

    strips = part.strips
    return {
        "part": part,
        "headings": ["before", *(f"update {n}" for n in part.frames[1:-1]), "after"],
        "classifier_before": mean([strip.before.classifier for strip in strips]),
        "classifier_after": mean([strip.after.classifier for strip in strips]),
        "judge_before": mean([strip.before.judge for strip in strips]),
        "judge_after": mean([strip.after.judge for strip in strips]),
        "recognised_before": sum(strip.before.recognised for strip in strips),
        "recognised_after": sum(strip.after.recognised for strip in strips),
        "seconds_per_update": statistics.median(part.history.seconds),
        "seconds": sum(part.history.seconds),
    }


def _numbers(result: DemoResult, command: str) -> dict[str, Any]:
    def part_numbers(part: Part) -> dict[str, Any]:
        return {
            "prompt": part.prompt,
            "losses": part.history.losses,
            "seconds": part.history.seconds,
            "rows": [
                {"label": strip.label, "before": asdict(strip.before), "after": asdict(strip.after)}
                for strip in part.strips
            ],
        }

    config = replace(result.config, output_dir=str(result.config.output_dir), assets=None)
    return {
        "command": command,
        "config": asdict(config),
        "noise": part_numbers(result.noise),
        "embedding": part_numbers(result.embedding),
        "certificate": asdict(result.certificate),
        "network_calls": result.network_calls,
        "seconds": result.seconds,
        "peak_memory_bytes": result.peak_memory,
        "environment": result.environment,
    }
