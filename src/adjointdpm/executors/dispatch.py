"""The loop between the queue and the workers."""

from __future__ import annotations

from collections.abc import Iterator

from ..storage import json_line
from .pool import Answer, Pool
from .queue import Queue
from .worker import Result


def dispatch(queue: Queue, pool: Pool, num_workers: int, retries: int) -> Iterator[Result]:
    """Keep workers busy until each item has a result.

    Args:
        queue: the items.
        pool: where workers are started; one that is lost is replaced.
        num_workers: how many there are at a time.
        retries: those of the queue: so often may all workers be lost with nothing done.

    Yields:
        Each item's result, once: a result that is no JSON becomes an ``error``.

    Raises:
        RuntimeError: so many workers were lost in a row that the fault is not an item's.
    """
    free: dict[int, int] = {}  # the capacities of workers that make no update
    lost = 0
    for _ in range(num_workers):
        pool.start()
    while queue.unfinished:
        answer = pool.wait()
        results = _results(queue, answer)
        yield from results
        lost = 0 if results else lost + (answer.error is not None)
        if lost > num_workers * (retries + 1):
            raise RuntimeError(
                f"{lost} workers were lost one after the other, and no item got done; the last: "
                f"{answer.error}"
            )
        if answer.error is None:
            free[answer.worker] = answer.capacity
        else:
            pool.start()
        for worker, capacity in list(free.items()):
            items = queue.take(worker, capacity)
            if queue.held(worker):
                pool.advance(worker, items)
                del free[worker]


def _results(queue: Queue, answer: Answer) -> list[Result]:
    """Return what an answer makes of items."""
    if answer.error is not None:
        return queue.lose(answer.worker, answer.error)
    return [_checked(result) for result in queue.finish(answer.worker, answer.results)]


def _checked(result: Result) -> Result:
    """Return a result that can be written."""
    try:
        json_line(result)
    except ValueError as error:
        return {"id": result["id"], "error": str(error), "attempts": 1}
    return result
