"""Which items wait, who works on which, and what happens to those of a worker that died."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from .worker import Item, Result


class Queue:
    """Items that are leased to workers, and put back when a worker is lost.

    An item that kills its workers would take those down that it shares a worker with. So the last
    attempt at an item is made alone, when nothing else waits.

    Args:
        items: what is to be done.
        retries: how often an item is tried again after its worker was lost.

    Raises:
        ValueError: two items have one id.
    """

    def __init__(self, items: Iterable[Item], retries: int) -> None:
        self._waiting = deque(items)
        self._alone: deque[Item] = deque()
        self._leased: dict[int, dict[str, Item]] = {}
        self._lost: Counter[str] = Counter()
        self._retries = retries
        twice = [id for id, n in Counter(item["id"] for item in self._waiting).items() if n > 1]
        if twice:
            raise ValueError(f"two items have the id {twice[0]!r}; ids must be unique")

    @property
    def waiting(self) -> int:
        """How many items no worker has."""
        return len(self._waiting) + len(self._alone)

    @property
    def unfinished(self) -> int:
        """How many items have no result."""
        return self.waiting + sum(len(leased) for leased in self._leased.values())

    def held(self, worker: int) -> int:
        """Return how many items a worker has."""
        return len(self._leased.get(worker, ()))

    def take(self, worker: int, capacity: int) -> list[Item]:
        """Lease items to a worker, up to its capacity.

        Args:
            worker: its number.
            capacity: how many it may have, with those that it has.
        """
        leased = self._leased.setdefault(worker, {})
        is_alone = any(self._is_last_attempt(id) for id in leased)
        taken: list[Item] = []
        while self._waiting and not is_alone and len(leased) + len(taken) < capacity:
            taken.append(self._waiting.popleft())
        if self._alone and not leased and not taken:
            taken.append(self._alone.popleft())
        leased.update({item["id"]: item for item in taken})
        return taken

    def finish(self, worker: int, results: Iterable[Result]) -> list[Result]:
        """Take results from a worker.

        Raises:
            ValueError: it did not have such an item.
        """
        results = list(results)
        for result in results:
            if self._leased[worker].pop(result["id"], None) is None:
                raise ValueError(f"a worker returned {result['id']!r}, which it does not have")
        return results

    def lose(self, worker: int, error: str) -> list[Result]:
        """Put the items of a worker back.

        Args:
            worker: its number, which is not used again.
            error: what became of it.

        Returns:
            The results of those that were tried for the last time: their ``id`` and the ``error``.
        """
        failed: list[Result] = []
        for id, item in self._leased.pop(worker, {}).items():
            self._lost[id] += 1
            if self._lost[id] > self._retries:
                failed.append({"id": id, "error": error, "attempts": self._lost[id]})
            else:
                (self._alone if self._is_last_attempt(id) else self._waiting).append(item)
        return failed

    def _is_last_attempt(self, id: str) -> bool:
        return 0 < self._lost[id] == self._retries
