"""The report of the demo: a page, pictures, and the numbers for a machine to read."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ...report import contact_sheet, curves_svg, data_uri, to_pil
from .run import DemoResult, Row, Story

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
    stories = (result.noise, result.embedding)
    for story in stories:
        sheet = contact_sheet([row.pictures for row in story.rows])
        to_pil(sheet, ENLARGE).save(folder / f"{story.name}.png", optimize=True)
        for number, row in enumerate(story.rows, start=1):
            for when, index in (("before", 0), ("after", -1)):
                picture = to_pil(row.pictures[index], ENLARGE)
                picture.save(folder / f"{story.name}-{number}-{when}.png", optimize=True)
    curve = curves_svg(
        {story.name: story.history.losses for story in stories},
        xlabel="update",
        ylabel="loss: −log probability",
    )
    (folder / "loss.svg").write_text(curve, encoding="utf-8")
    numbers = json.dumps(_numbers(result, command), indent=2, ensure_ascii=False)
    (folder / "numbers.json").write_text(numbers + "\n", encoding="utf-8")

    environment = Environment(
        loader=PackageLoader("adjointdpm", "jobs/demo"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data_uri=data_uri, percent=percent, duration=duration)
    page = environment.get_template("page.html").render(
        result=result,
        noise=_summary(result.noise),
        embedding=_summary(result.embedding),
        curve=curve,
        command=command,
        error=f"{result.gradient_error:.0e}",
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def percent(probability: float) -> str:
    """Return a probability for reading.

    >>> percent(0.9234), percent(0.00712), percent(0.00001), percent(0.9999)
    ('92 %', '0.7 %', '< 0.1 %', '> 99.9 %')
    """
    if probability < 0.001:
        return "< 0.1 %"
    if probability > 0.999:
        return "> 99.9 %"
    digits = 1 if probability < 0.0095 or probability > 0.9905 else 0
    return f"{100 * probability:.{digits}f} %"


def duration(seconds: float) -> str:
    """Return a duration for reading.

    >>> duration(4.21), duration(42.1), duration(151)
    ('4.2 s', '42 s', '2 min 31 s')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _summary(story: Story) -> dict[str, Any]:
    def mean(values: list[float]) -> float:
        return statistics.fmean(values)

    rows: list[Row] = story.rows
    return {
        "story": story,
        "headings": ["before", *(f"update {n}" for n in story.frames[1:-1]), "after"],
        "classifier_before": mean([row.before.classifier for row in rows]),
        "classifier_after": mean([row.after.classifier for row in rows]),
        "judge_before": mean([row.before.judge for row in rows]),
        "judge_after": mean([row.after.judge for row in rows]),
        "recognised_before": sum(row.before.recognised for row in rows),
        "recognised_after": sum(row.after.recognised for row in rows),
        "seconds_per_update": statistics.median(story.history.seconds),
        "seconds": sum(story.history.seconds),
    }


def _numbers(result: DemoResult, command: str) -> dict[str, Any]:
    def told(story: Story) -> dict[str, Any]:
        return {
            "prompt": story.prompt,
            "losses": story.history.losses,
            "seconds": story.history.seconds,
            "rows": [
                {"label": row.label, "before": asdict(row.before), "after": asdict(row.after)}
                for row in story.rows
            ],
        }

    config = replace(result.config, output_dir=str(result.config.output_dir), assets=None)
    return {
        "command": command,
        "config": asdict(config),
        "noise": told(result.noise),
        "embedding": told(result.embedding),
        "certificate": asdict(result.certificate),
        "network_calls": result.network_calls,
        "seconds": result.seconds,
        "peak_memory_bytes": result.peak_memory,
        "environment": result.environment,
    }
