"""Workers by number, wherever they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .worker import Item, Result, Worker


@dataclass(frozen=True)
class Answer:
    """What is heard of a worker: it is there, it has made an update, or it is lost.

    Args:
        worker: its number.
        capacity: how many items it works on at most.
        results: of the items that ended.
        error: what became of a worker that is lost; None for one that goes on.
    """

    worker: int
    capacity: int = 0
    results: Sequence[Result] = ()
    error: str | None = None


class Pool(Protocol):
    """Workers that are started, make updates, and may be lost."""

    def start(self) -> int:
        """Start a worker, which answers when it is there; return its number, a new one."""

    def advance(self, worker: int, items: Sequence[Item]) -> None:
        """Have a worker make an update, which it answers."""

    def wait(self) -> Answer:
        """Return the next answer. A worker that is lost is gone when its answer comes."""

    def close(self) -> None:
        """End all workers."""


class LocalPool:
    """Workers in this process, which make their updates one after the other.

    Args:
        make_worker: builds a worker. What it raises ends the run: the next would do no better.
    """

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self._make_worker = make_worker
        self._workers: list[Worker | None] = []
        self._asked: deque[tuple[int, Sequence[Item] | None]] = deque()

    def start(self) -> int:
        """Build a worker."""
        self._workers.append(self._make_worker())
        number = len(self._workers) - 1
        self._asked.append((number, None))
        return number

    def advance(self, worker: int, items: Sequence[Item]) -> None:
        """Remember an update; it is made when somebody waits for it."""
        self._asked.append((worker, items))

    def wait(self) -> Answer:
        """Make the next update. A worker that raises is lost, since nobody knows its state."""
        number, items = self._asked.popleft()
        worker = self._workers[number]
        assert worker is not None
        try:
            results = () if items is None else worker.advance(items)
            return Answer(number, worker.capacity, results)
        except Exception as error:
            self._workers[number] = None
            return Answer(number, error=f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Let go of the workers."""
        self._workers.clear()
