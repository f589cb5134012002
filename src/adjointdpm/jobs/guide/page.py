"""The report of the job `guide`: a page, pictures, and the numbers for a machine to read."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
    percent,
    save_picture,
    size,
    write_run_page,
)
from .run import Ending, GuideResult

LOAD_NOISE = """\
import adjointdpm as adp

saved = adp.formats.load_noise("noise.safetensors", pipe.device)
"""


def write_guide_report(result: GuideResult, command: str) -> Path:
    """Write ``report.html``, the pictures and ``numbers.json``.

    Args:
        result: what became of the samples.
        command: how it was called.

    Returns:
        The page.
    """
    folder = Path(result.config.output_dir)
    enlarge = 4 if result.after.images.shape[-1] <= 64 else 1
    for when, ending in (("before", result.before), ("after", result.after)):
        for i, image in enumerate(ending.images, start=1):
            save_picture(folder / f"picture-{i}-{when}.png", image, enlarge)
    sheet = contact_sheet([result.before.images, result.after.images])
    save_picture(folder / "pictures.png", sheet, enlarge)
    return write_run_page(
        folder, "jobs/guide", guide_page(result, command), _numbers(result, command), result=result
    )


def guide_page(result: GuideResult, command: str) -> RunPage:
    """Return what the report shows.

    Args:
        result: what became of the samples.
        command: how the job was called.
    """
    step = "update" if result.config.method == "noise" else "guided step"
    files = [WrittenFile("pictures.png", "the pictures before, and below them after")]
    if result.noise_file is not None:
        name, code = result.noise_file.name, LOAD_NOISE + result.drawing
        files.insert(0, WrittenFile(name, "the noises, for the same pipeline", code))
    spent = None
    if result.history is not None:
        spent = Spent.of(result.history, result)
    return RunPage(
        title=f"Samples led to a goal: {result.config.prompt}",
        command=command,
        settings=asdict(result.config),
        environment=result.environment,
        facts=_facts(result),
        pictures=[_row(result, i) for i in range(result.config.num_images)],
        curves=[losses_svg(result.losses, step)] if result.losses else [],
        certificate=result.certificate,
        predicted=result.predicted if spent else None,
        spent=spent,
        files=files,
    )


def _facts(result: GuideResult) -> list[Fact]:
    means = [f"{statistics.fmean(e.metric):.3g}" for e in (result.before, result.after)]
    facts = [Fact(" → ".join(means), f"mean of the metric: {result.objective}")]
    before, after = result.before.recognised, result.after.recognised
    if before is not None and after is not None:
        facts.append(
            Fact(
                f"{before.successes} → {after.successes} of {after.trials}",
                f"pictures that the judge takes for “{result.config.goal}”",
            )
        )
    taken = f"in all; at most {size(result.peak_memory)} of memory"
    return [*facts, Fact(duration(result.seconds), taken)]


def _row(result: GuideResult, i: int) -> ShownRow:
    def shown(ending: Ending, when: str) -> Shown:
        lines = [f"metric: {ending.metric[i]:.3g}"]
        if not ending.readings:
            return Shown(ending.images[i], f"Picture {i + 1} {when} guidance", lines)
        reading = ending.readings[i]
        lines += [f"judge: {percent(reading.judge)}", f"“{reading.judge_label}”"]
        alt = f"Picture {i + 1} {when} guidance: the judge calls it “{reading.judge_label}”"
        return Shown(ending.images[i], alt, lines, reading.recognised)

    return ShownRow(
        f"noise {i + 1}", [shown(result.before, "before"), shown(result.after, "after")]
    )


def _numbers(result: GuideResult, command: str) -> dict[str, Any]:
    def ending(of: Ending) -> dict[str, Any]:
        return {"metric": of.metric, "readings": [asdict(reading) for reading in of.readings]}

    return {
        "command": command,
        "config": asdict(result.config),
        "objective": result.objective,
        "larger_is_better": result.larger_is_better,
        "before": ending(result.before),
        "after": ending(result.after),
        "losses": result.losses,
        "predicted": asdict(result.predicted),
        "certificate": None if result.certificate is None else asdict(result.certificate),
        **result.usage(),
    }
