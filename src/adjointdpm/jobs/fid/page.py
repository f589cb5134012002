"""The report of the job `fid`: a page, and the numbers for a machine to read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ...report import (
    Fact,
    RunPage,
    WrittenFile,
    contact_sheet,
    duration,
    size,
    write_run_page,
)
from .run import FidResult

COLUMNS = 8


def write_fid_report(result: FidResult, command: str) -> Path:
    """Write ``report.html`` and ``numbers.json``.

    Args:
        result: what was measured.
        command: how it was called.

    Returns:
        The page.
    """
    page = RunPage(
        title="FID and KID",
        command=command,
        settings=asdict(result.config),
        environment=result.environment,
        facts=_facts(result),
        files=_files(result),
    )
    folder = Path(result.config.output_dir)
    numbers = _numbers(result, command)
    return write_run_page(
        folder, "jobs/fid", page, numbers, result=result, sheet=_sheet(result.shown)
    )


def _facts(result: FidResult) -> list[Fact]:
    distance = result.distance
    facts = [Fact(f"{distance.fid:.2f}", "FID (arXiv 1706.08500)")]
    if distance.kid is not None and distance.kid_std is not None:
        kid = f"{1000 * distance.kid:.2f} ± {1000 * distance.kid_std:.2f}"
        meaning = f"KID × 1000 (arXiv 1801.01401), subsets of {distance.subset_size}"
        facts.append(Fact(kid, meaning))
    counts = ["?" if count is None else str(count) for count in distance.num_pictures]
    facts.append(Fact(" : ".join(counts), "pictures that were measured, and of the reference"))
    taken = f"in all; at most {size(result.peak_memory)} of memory"
    return [*facts, Fact(duration(result.seconds), taken)]


def _files(result: FidResult) -> list[WrittenFile]:
    files = [WrittenFile("numbers.json", "the numbers of this page")]
    if result.config.save_statistics:
        files += [
            WrittenFile("images.npz", "statistics of the pictures"),
            WrittenFile("reference.npz", "statistics of the reference, for --reference"),
        ]
    return files


def _sheet(shown: Tensor | None) -> Tensor | None:
    """Return the pictures in full rows, or all in one row where they are few."""
    if shown is None:
        return None
    rows = shown[: max(len(shown) // COLUMNS, 1) * COLUMNS].split(COLUMNS)
    return contact_sheet(list(rows))


def _numbers(result: FidResult, command: str) -> dict[str, Any]:
    return {
        "command": command,
        "config": asdict(result.config),
        "distance": asdict(result.distance),
        "sampler": result.sampler,
        "num_calls": result.num_calls,
        **result.usage(),
    }
