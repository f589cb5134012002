"""Where and when something was measured; every file of results says it."""

from __future__ import annotations

from datetime import date
from typing import Any

import torch

from adjointdpm.runs import environment


def stamp(device: str = "cpu") -> dict[str, Any]:
    """Return the machine with the versions that matter, and the date."""
    return {"machine": environment(torch.device(device)), "date": date.today().isoformat()}
