"""The report of the job `stylize`: a page, a contact sheet, and the numbers for a machine."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...report import (
    Fact,
    RunPage,
    Shown,
    ShownRow,
    Spent,
    WrittenFile,
    contact_sheet,
    losses_svg,
    percent,
    save_picture,
    write_run_page,
)
from .results import Comparison, StylizeResult

COLUMNS = 4
"""Pairs in a row of the contact sheet."""
SHEET = "before-after.png"
STYLE = "style.png"
NUMBERS = "numbers.json"


def write_stylize_report(result: StylizeResult, command: str) -> Path:
    """Write ``report.html``, a contact sheet and ``numbers.json`` beside the weights.

    Args:
        result: what became of the model.
        command: how it was called.

    Returns:
        The page.
    """
    folder = Path(result.config.output_dir)
    save_picture(folder / SHEET, sheet(result.comparisons), _enlarge(result))
    if result.style_picture is not None:
        save_picture(folder / STYLE, result.style_picture, _enlarge(result))
    return write_run_page(
        folder,
        "jobs/stylize",
        stylize_page(result, command),
        _numbers(result, command),
        result=result,
    )


def sheet(comparisons: list[Comparison]) -> torch.Tensor:
    """Return pictures before and after, side by side, as one picture (3, ..., ...)."""
    pairs = [torch.stack([each.before, each.after]) for each in comparisons]
    blank = torch.ones_like(pairs[0])
    pairs += [blank] * (-len(pairs) % COLUMNS)
    return contact_sheet([torch.cat(pairs[i : i + COLUMNS]) for i in range(0, len(pairs), COLUMNS)])


def _enlarge(result: StylizeResult) -> int:
    return max(1, 256 // result.comparisons[0].before.shape[2])


def stylize_page(result: StylizeResult, command: str) -> RunPage:
    """Return what the report shows.

    Args:
        result: what became of the model.
        command: how the job was called.
    """
    return RunPage(
        title=f"The style of {result.style}, in every picture",
        command=command,
        settings=asdict(result.config),
        environment=result.environment,
        facts=_facts(result),
        pictures=[_row(each, result) for each in result.comparisons],
        curves=[losses_svg(result.history.losses, ylabel="style + content")],
        predicted=result.predicted,
        certificate=result.certificate,
        spent=Spent.of(result.history, result),
        files=_files(result),
    )


def _facts(result: StylizeResult) -> list[Fact]:
    content = statistics.fmean(each.content for each in result.comparisons)
    facts = [
        Fact(
            f"{result.style_before:.3f} → {result.style_after:.3f}",
            f"{'similarity to' if result.larger_is_better else 'distance from'} the style, on "
            "prompts that no update has seen",
        ),
        Fact(f"{content:.3f}", "distance of content from the pictures before"),
        Fact(f"{result.num_weights:,}", f"weights optimised, on {result.prompts} prompts"),
    ]
    if (kept := result.still_recognised) is not None:
        meaning = f"of {kept.trials} pictures that the judge recognised, it still does"
        facts.insert(1, Fact(f"{kept.successes} of {kept.trials}", meaning))
    return facts


def _row(each: Comparison, result: StylizeResult) -> ShownRow:
    def shown(when: str) -> Shown:
        value, reading = getattr(each, f"style_{when}"), getattr(each, f"reading_{when}")
        lines = [f"style: {value:.3f}"]
        if reading is not None:
            lines += [f"judge: {percent(reading.judge)}", f"“{reading.judge_label}”"]
        return Shown(
            getattr(each, when),
            alt=f"The picture of “{each.prompt}” {when}: {', '.join(lines)}",
            lines=lines,
            good=reading is not None and reading.recognised,
        )

    return ShownRow(each.prompt, [shown("before"), shown("after")])


def _files(result: StylizeResult) -> list[WrittenFile]:
    name = result.config.pretrained_model_name_or_path
    if name is None:
        lines = ["import adjointdpm as adp", "", "pipe = adp.load_default().pipeline"]
    else:
        lines = ["from diffusers import DiffusionPipeline", ""]
        lines.append(f"pipe = DiffusionPipeline.from_pretrained({str(name)!r})")
    if result.config.trainable is None:
        lines.append('pipe.load_lora_weights(".")')
    for part in _parts(result):
        lines.append(f'pipe.{part} = type(pipe.{part}).from_pretrained("{part}")')
    code = "\n".join([*lines, 'image = pipe("a picture").images[0]'])
    files = [
        WrittenFile(result.file.name, "the weights", code),
        WrittenFile(SHEET, "pictures before and after, side by side"),
        WrittenFile(NUMBERS, "every number of this page, and every loss"),
    ]
    if result.style_picture is not None:
        files.append(WrittenFile(STYLE, "the style, as it was looked at"))
    return files


def _parts(result: StylizeResult) -> list[str]:
    """Return the components that were trained."""
    return list(dict.fromkeys(name.split(".")[0] for name in result.config.trainable or ()))


def _numbers(result: StylizeResult, command: str) -> dict[str, Any]:
    kept = result.still_recognised
    return {
        "command": command,
        "config": asdict(result.config),
        "style_before": result.style_before,
        "style_after": result.style_after,
        "still_recognised": None if kept is None else asdict(kept),
        "comparisons": [
            {
                "prompt": each.prompt,
                "style_before": each.style_before,
                "style_after": each.style_after,
                "content": each.content,
                "before": None if each.reading_before is None else asdict(each.reading_before),
                "after": None if each.reading_after is None else asdict(each.reading_after),
            }
            for each in result.comparisons
        ],
        "certificate": None if result.certificate is None else asdict(result.certificate),
        "losses": result.history.losses,
        "seconds_by_update": result.history.seconds,
        **result.usage(),
    }
