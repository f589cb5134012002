"""What ways to do the same cost in CPU seconds, so that each can be given the same time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median


def cpu_seconds(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median CPU seconds of each way, each having run once before.

    They take turns: where a machine grows slower meanwhile, it does so for all of them.

    Args:
        ways: what to run, by name.
        repeats: how often.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + repeats):
        for name, run in ways.items():
            started = time.process_time()
            run()
            found[name].append(time.process_time() - started)
    return {name: median(seconds[1:]) for name, seconds in found.items()}
