"""What several workers gain, on paper: messages in closed form, the queue by its own code.

Nothing here is measured. `benchmarks/scaling.py` puts in what was, and says what is assumed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from adjointdpm.executors import Item
from adjointdpm.executors.dispatch import dispatch
from adjointdpm.executors.pool import Answer
from adjointdpm.executors.queue import Queue


@dataclass(frozen=True)
class Link:
    """What connects workers.

    Args:
        bandwidth: bytes a second, of each worker.
        latency: seconds of a message.
    """

    bandwidth: float
    latency: float


def gathering(size: float, workers: int, link: Link) -> float:
    """Return the seconds of an all-gather, or of a reduce-scatter, of ``size`` bytes on a ring.

    Each worker has one part of ``size / workers`` and sees the others' pass by.
    """
    return (workers - 1) * (size / workers / link.bandwidth + link.latency)


def all_reducing(size: float, workers: int, link: Link) -> float:
    """Return the seconds of an all-reduce on a ring: a reduce-scatter and an all-gather."""
    return 2 * gathering(size, workers, link)


def slowest(workers: int, spread: float) -> float:
    """Return how long the slowest of workers takes, relative to the mean.

    The expected largest of normal draws, by Blom's approximation (1958).

    Args:
        workers: how many.
        spread: standard deviation of an update's time, relative to its mean.
    """
    return 1 + spread * NormalDist().inv_cdf((workers - 0.375) / (workers + 0.25))


@dataclass(frozen=True)
class Training:
    """An update of which every worker computes the same number of pictures.

    Args:
        compute: seconds of one worker's pictures.
        spread: see `slowest`.
        gradient: bytes that are averaged once an update.
        gathered: bytes that are gathered, and reduced, within the update.
        messages: in how many messages.
        overlap: whether those are hidden behind the computing.
    """

    compute: float
    spread: float
    gradient: float = 0.0
    gathered: float = 0.0
    messages: float = 0.0
    overlap: bool = True

    def seconds(self, workers: int, link: Link) -> float:
        """Return the seconds of an update."""
        computing = self.compute * slowest(workers, self.spread)
        moving = gathering(self.gathered, workers, link)
        moving += max(self.messages - 1, 0) * (workers - 1) * link.latency
        within = max(computing, moving) if self.overlap else computing + moving
        return within + all_reducing(self.gradient, workers, link)

    def efficiency(self, workers: int, link: Link) -> float:
        """Return the pictures a second of a worker, relative to one that is alone."""
        return self.seconds(1, link) / self.seconds(workers, link)


def saturation(efficiency: Callable[[int], float], bar: float, most: int = 2**20) -> int:
    """Return the largest number of workers whose efficiency is not below a bar.

    Args:
        efficiency: falls with the number of workers, from 1.
        bar: between 0 and 1.
        most: where to stop looking.
    """
    low, high = 1, 2
    while high <= most and efficiency(high) >= bar:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if efficiency(middle) >= bar else (low, middle)
    return min(low, most)


class VirtualPool:
    """Workers whose updates take no time but on a clock.

    Args:
        capacity: of each worker.
        update: seconds of an update.
        driver: seconds in which the driver serves a worker, one at a time.
        start: seconds until a worker has loaded its model.
    """

    def __init__(self, capacity: int, update: float, driver: float, start: float = 0.0) -> None:
        self.capacity, self.update, self.driver = capacity, update, driver
        self.clock = 0.0
        self._start = start
        self._left: list[dict[str, int]] = []
        self._answers: list[tuple[float, int, bool]] = []

    def start(self) -> int:
        number = len(self._left)
        self._left.append({})
        heapq.heappush(self._answers, (self.clock + self._start, number, False))
        return number

    def advance(self, worker: int, items: Sequence[Item]) -> None:
        self._left[worker] |= {item["id"]: item["updates"] for item in items}
        heapq.heappush(self._answers, (self.clock + self.update, worker, True))

    def wait(self) -> Answer:
        at, worker, updated = heapq.heappop(self._answers)
        self.clock = max(self.clock, at) + self.driver
        left = {id: n - updated for id, n in self._left[worker].items()}
        self._left[worker] = {id: n for id, n in left.items() if n > 0}
        return Answer(worker, self.capacity, [{"id": id} for id, n in left.items() if n <= 0])

    def close(self) -> None:
        self._left.clear()


def queue_seconds(updates: Sequence[int], workers: int, pool: VirtualPool) -> float:
    """Return how long a queue takes, by the loop that runs real ones.

    Args:
        updates: how many each item needs.
        workers: how many there are.
        pool: a new one.
    """
    items: list[dict[str, Any]] = [
        {"id": str(k), "updates": needed} for k, needed in enumerate(updates)
    ]
    for _ in dispatch(Queue(items, retries=0), pool, workers, retries=0):
        pass
    return pool.clock


def queue_saturation(update: float, driver: float) -> float:
    """Return at how many workers one driver is busy all the time."""
    return 1 + update / driver
