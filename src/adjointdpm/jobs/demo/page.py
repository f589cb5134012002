"""The report of the demo: a page, pictures, and the numbers for a machine to read."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ...evaluation import Reading
from ...report import (
    Fact,
    RunPage,
    Shown,
    ShownRow,
    contact_sheet,
    curves_svg,
    duration,
    percent,
    save_picture,
    size,
    write_run_page,
)
from ...storage import write_text
from .run import DemoResult, Part, Strip

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
    summaries = tuple(map(_summary, parts))
    noise, embedding = summaries
    return write_run_page(
        folder,
        "demo",
        _page(result, summaries, curve, command),
        _numbers(result, command),
        result=result,
        noise=noise,
        embedding=embedding,
        table=_table(summaries, result.config.batch_size),
    )


def _page(
    result: DemoResult, summaries: Sequence[dict[str, Any]], curve: str, command: str
) -> RunPage:
    config, (noise, embedding) = result.config, summaries
    return RunPage(
        title="AdjointDPM: gradients through a whole sampling run",
        command=command,
        settings=asdict(config),
        environment={"gradient": result.certificate.method, **result.environment},
        facts=[
            Fact(
                noise["recognised"],
                f"pictures that the judge takes for “{config.noise_target}”, noise optimised",
            ),
            Fact(
                embedding["recognised"],
                f"for “{config.embedding_target}”, embedding optimised, from unseen noises",
            ),
            Fact(
                f"{result.gradient_error:.0e}",
                "relative error of the gradient against central differences, in float64",
            ),
            Fact(duration(result.seconds), f"in all; at most {size(result.peak_memory)} of memory"),
        ],
        curves=[curve],
        certificate=result.certificate,
    )


def _describe_losses(parts: Sequence[Part]) -> str:
    """Return what the plot of the losses shows, for whoever does not see it."""
    ends = [
        f"{part.name} from {part.history.losses[0]:.2f} to {part.history.losses[-1]:.2f}"
        for part in parts
    ]
    return f"The loss at each update: {', '.join(ends)}."


def _summary(part: Part) -> dict[str, Any]:
    """Return a part as the page shows it."""
    before, after = [s.before for s in part.strips], [s.after for s in part.strips]

    def change(name: str) -> str:
        """Return the means of a probability, before and after."""
        means = [statistics.fmean(getattr(r, name) for r in when) for when in (before, after)]
        return " → ".join(map(percent, means))

    recognised = [sum(reading.recognised for reading in when) for when in (before, after)]
    return {
        "part": part,
        "headings": ["before", *(f"update {n}" for n in part.frames[1:-1]), "after"],
        "rows": [_row(part, strip) for strip in part.strips],
        "classifier": change("classifier"),
        "judge": change("judge"),
        "recognised": f"{recognised[0]} → {recognised[1]} of {len(part.strips)}",
    }


def _row(part: Part, strip: Strip) -> ShownRow:
    def end(when: str, reading: Reading) -> Shown:
        return Shown(
            strip.pictures[0 if when == "before" else -1],
            alt=f"The picture of {strip.label} {when} optimisation: the judge calls it "
            f"“{reading.judge_label}” and gives “{reading.target}” {percent(reading.judge)}",
            lines=[
                f"classifier: {percent(reading.classifier)}",
                f"judge: {percent(reading.judge)}",
                f"“{reading.judge_label}”",
            ],
            good=reading.recognised,
        )

    between = [
        Shown(picture, alt=f"The picture of {strip.label} after {number} updates")
        for number, picture in zip(part.frames[1:-1], strip.pictures[1:-1], strict=True)
    ]
    ends = end("before", strip.before), end("after", strip.after)
    return ShownRow(strip.label, [ends[0], *between, ends[1]])


def _table(summaries: Sequence[dict[str, Any]], batch_size: int) -> list[list[Any]]:
    """Return what is compared between the parts."""
    parts = [summary["part"] for summary in summaries]
    rows = {
        "probability to the classifier": [s["classifier"] for s in summaries],
        "probability to the judge": [s["judge"] for s in summaries],
        "recognised by the judge": [s["recognised"] for s in summaries],
        "pictures in each update": [len(parts[0].strips), batch_size],
        "updates": [len(part.history) for part in parts],
        "time of an update (median)": [
            duration(statistics.median(part.history.seconds)) for part in parts
        ],
        "time of all updates": [duration(sum(part.history.seconds)) for part in parts],
    }
    return [[name, *cells] for name, cells in rows.items()]


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
