"""The report of a taught word: a page, pictures, and the numbers for a machine to read."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ...evaluation import Reading
from ...report import (
    Fact,
    RunPage,
    Shown,
    ShownRow,
    Spent,
    WrittenFile,
    contact_sheet,
    duration,
    losses_svg,
    save_picture,
    write_run_page,
)
from ...storage import write_text
from .results import EmbedResult, Validation


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
        sheet = contact_sheet([getattr(each, when) for each in result.validations])
        save_picture(folder / f"{when}.png", sheet, enlarge=2)
    page = embed_page(result, command)
    write_text(folder / "loss.svg", page.curves[0])
    return write_run_page(folder, "jobs/embed", page, _numbers(result, command), result=result)


def embed_page(result: EmbedResult, command: str) -> RunPage:
    """Return what the report shows.

    Args:
        result: what became of the word.
        command: how the job was called.
    """
    config = result.config
    better = "larger" if result.larger_is_better else "smaller"
    facts = [
        Fact(
            f"{_mean(result, 'before'):.3g} → {_mean(result, 'after'):.3g}",
            f"{result.objective} ({better} is better)",
        ),
        Fact(duration(result.seconds), "in all"),
    ]
    before, after = result.recognised("before"), result.recognised("after")
    if before is not None and after is not None:
        judged = Fact(f"{before.rate:.0%} → {after.rate:.0%}", f"the judge sees it; after: {after}")
        facts.insert(0, judged)
    is_word = config.variable == "word"
    what = f"word, {config.placeholder_token}" if is_word else "prompt embedding"
    return RunPage(
        title=f"AdjointDPM: a new {what}",
        command=command,
        settings=asdict(config),
        environment=result.environment,
        facts=facts,
        pictures=[row for each in result.validations for row in _rows(each)],
        curves=[losses_svg(result.history.losses)],
        certificate=result.certificate,
        spent=Spent.of(result.history, result),
        files=[
            WrittenFile(result.file.name, "the word" if is_word else "the embedding"),
            WrittenFile("README.md", "its card, with the lines that load it in stock diffusers"),
            WrittenFile("numbers.json", "all numbers of this page"),
            WrittenFile("before.png", "the pictures before"),
            WrittenFile("after.png", "the pictures after"),
        ],
    )


def _rows(each: Validation) -> list[ShownRow]:
    rows = []
    for i, pair in enumerate(zip(each.before, each.after, strict=True), start=1):
        shown = [
            _shown(each, when, i, image)
            for when, image in zip(("before", "after"), pair, strict=True)
        ]
        rows.append(ShownRow(f"{each.template}, noise {i}", shown))
    return rows


def _shown(each: Validation, when: str, number: int, image: Tensor) -> Shown:
    metric: float = getattr(each, f"metric_{when}")[number - 1]
    readings: Sequence[Reading] = getattr(each, f"readings_{when}")
    alt, lines, good = f"“{each.template}” from noise {number} {when}", [f"{metric:.3g}"], False
    if readings:
        reading = readings[number - 1]
        alt += f": the judge calls it “{reading.judge_label}”"
        lines.append(f"judge: {reading.judge_label}")
        good = reading.recognised
    return Shown(image, alt, lines, good)


def _mean(result: EmbedResult, when: str) -> float:
    """Return the mean of the metric over all pictures, before or after."""
    return statistics.fmean(
        value for each in result.validations for value in getattr(each, f"metric_{when}")
    )


def _numbers(result: EmbedResult, command: str) -> dict[str, Any]:
    recognised = {when: result.recognised(when) for when in ("before", "after")}
    return {
        "command": command,
        "config": asdict(result.config),
        "objective": result.objective,
        "larger_is_better": result.larger_is_better,
        "templates": result.templates,
        "certificate": None if result.certificate is None else asdict(result.certificate),
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
        **result.usage(),
    }
