"""What all tables of the documents are written with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks"


def read(name: str) -> Any:
    """Return what a benchmark wrote."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table with lines around it, as a mark that stands alone needs them."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n"


def size(number_of_bytes: float) -> str:
    """Write bytes with three digits and a unit."""
    unit, name = (2**30, "GiB") if number_of_bytes >= 1000 * 2**20 else (2**20, "MiB")
    return f"{number_of_bytes / unit:.3g}\N{NO-BREAK SPACE}{name}"
