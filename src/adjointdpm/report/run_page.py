"""What the page of a run shows, whatever the job."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..certificate import Certificate
from ..cost import Cost
from ..runs import History, RunResult
from ..storage import write_text
from .page import render_page


@dataclass(frozen=True)
class Fact:
    """A number to be read first.

    Args:
        value: the number, as text.
        meaning: what it is, in a few words.
    """

    value: str
    meaning: str


@dataclass(frozen=True)
class Shown:
    """A picture on a page.

    Args:
        image: (3, height, width) in [0, 1].
        alt: what it shows, for whoever does not see it; different for each picture of a page.
        lines: what is written below it.
        good: whether the last line is good news.
    """

    image: Tensor
    alt: str
    lines: Sequence[str] = ()
    good: bool = False


@dataclass(frozen=True)
class ShownRow:
    """Pictures of one thing, from before the first update to after the last.

    Args:
        label: what they have in common.
        pictures: one a column.
    """

    label: str
    pictures: Sequence[Shown]


@dataclass(frozen=True)
class WrittenFile:
    """A file beside the page.

    Args:
        name: from the folder of the page.
        content: what is in it, in a few words.
        code: lines that load it in stock diffusers.
    """

    name: str
    content: str
    code: str = ""


@dataclass(frozen=True)
class Spent:
    """What a run took.

    Args:
        updates: how many there were.
        seconds_per_update: their median.
        seconds: of the whole job.
        peak_memory: the most bytes that were held.
    """

    updates: int
    seconds_per_update: float
    seconds: float
    peak_memory: int

    @classmethod
    def of(cls, history: History, result: RunResult) -> Spent:
        """Return it from what the loop and the job tell."""
        per_update = statistics.median(history.seconds)
        return cls(len(history), per_update, result.seconds, result.peak_memory)


@dataclass(frozen=True)
class RunPage:
    """What ``base.html`` shows; sections without content are left out.

    Args:
        title: of the page.
        command: how the job was called.
        settings: all of them, by name.
        environment: versions and machine.
        facts: numbers to be read first.
        headings: one a column of pictures.
        pictures: rows of pictures.
        curves: plots, as SVG text.
        certificate: of the gradient that was used.
        predicted: cost of a gradient, before the run.
        spent: what the run took.
        files: what was written, but this page.
    """

    title: str
    command: str
    settings: Mapping[str, object]
    environment: Mapping[str, str]
    facts: Sequence[Fact] = ()
    headings: Sequence[str] = ("before", "after")
    pictures: Sequence[ShownRow] = ()
    curves: Sequence[str] = ()
    certificate: Certificate | None = None
    predicted: Cost | None = None
    spent: Spent | None = None
    files: Sequence[WrittenFile] = ()


def write_run_page(
    folder: Path, templates: str, page: RunPage, numbers: Mapping[str, Any], **values: Any
) -> Path:
    """Write ``report.html`` and ``numbers.json``; return the page.

    Args:
        folder: of the run.
        templates: folder of ``page.html`` within the package, such as ``jobs/guide``.
        page: what the template shows.
        numbers: for a machine to read; what JSON does not know is written as text.
        **values: what else the template shows.
    """
    text = json.dumps(numbers, indent=2, ensure_ascii=False, default=str)
    write_text(folder / "numbers.json", text + "\n")
    write_text(folder / "report.html", render_page(templates, "page.html", page=page, **values))
    return folder / "report.html"
