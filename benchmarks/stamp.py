"""Where and when something was measured; every file of results says it."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import torch

from adjointdpm.runs import environment
from adjointdpm.storage import write_text


def stamp(device: str = "cpu") -> dict[str, Any]:
    """Return the machine with the versions that matter, and the date."""
    return {"machine": environment(torch.device(device)), "date": date.today().isoformat()}


def write_stamped(path: Path, settings: dict[str, Any], **tables: list[dict[str, Any]]) -> None:
    """Write results with their stamp, each row of a table on a line of its own."""
    parts = [json.dumps({**settings, **stamp()}, indent=1).removesuffix("\n}")]
    for name, rows in tables.items():
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        parts.append(f' "{name}": [\n{lines}\n ]')
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, ",\n".join(parts) + "\n}\n")
