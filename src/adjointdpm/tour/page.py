"""The page of the tour: a few pictures of each job, and the way to its report."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ..report import Fact, RunPage, contact_sheet, duration, save_picture, size, write_run_page
from .run import Stop, Tour

SHOWN = 4
"""Rows of pictures of each job."""


def write_tour_page(tour: Tour, command: str) -> Path:
    """Write ``report.html``, ``pictures.png`` and ``numbers.json`` above the folders of the jobs.

    Args:
        tour: what was found.
        command: how it was called.

    Returns:
        The page.
    """
    folder = Path(tour.config.output_dir)
    save_picture(folder / "pictures.png", _sheet(tour.stops), enlarge=2)
    numbers = {
        "command": command,
        "config": asdict(tour.config),
        "jobs": {
            stop.name: {
                "command": stop.command,
                "seconds": stop.seconds,
                "facts": {fact.meaning: fact.value for fact in stop.page.facts},
            }
            for stop in tour.stops
        },
        **tour.usage(),
    }
    page = RunPage(
        title="AdjointDPM: gradients through a whole sampling run",
        command=command,
        settings=asdict(tour.config),
        environment=tour.environment,
        facts=[
            *[stop.headline for stop in tour.stops],
            Fact(duration(tour.seconds), f"in all; at most {size(tour.peak_memory)} of memory"),
        ],
    )
    return write_run_page(folder, "tour", page, numbers, stops=tour.stops, shown=SHOWN)


def _sheet(stops: list[Stop]) -> Tensor:
    """Return a row before and a row after for each job, white where it has fewer pictures."""
    rows = [
        [row.pictures[end].image for row in stop.page.pictures[:SHOWN]]
        for stop in stops
        for end in (0, -1)
    ]
    blank = torch.ones_like(rows[0][0])
    return contact_sheet([torch.stack([*row, *[blank] * (SHOWN - len(row))]) for row in rows])
