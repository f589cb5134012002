"""Workers that other processes build by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

from adjointdpm.executors import Item, Result


class Napping:
    """Takes some updates for each item and says which process it is.

    Args:
        capacity: how many items it works on.
        seconds: how long an update takes.
    """

    def __init__(self, capacity: int, seconds: float) -> None:
        self.capacity = capacity
        self._seconds = seconds
        self._left: dict[str, int] = {}

    def advance(self, items: Sequence[Item]) -> list[Result]:
        for item in items:
            if item.get("kills"):
                os.kill(os.getpid(), signal.SIGKILL)
            self._left[item["id"]] = item["updates"]
        time.sleep(self._seconds)
        self._left = {id: left - 1 for id, left in self._left.items()}
        ended = [id for id, left in self._left.items() if left == 0]
        for id in ended:
            del self._left[id]
        return [{"id": id, "process": os.getpid()} for id in ended]
