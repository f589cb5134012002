"""The loop that hands out items, takes results and writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from ..storage import JsonLines
from .dispatch import dispatch
from .pool import LocalPool, Pool
from .queue import Queue
from .ray_pool import RayPool
from .worker import Item, Result, Worker, WorkerFactory

Executor = Literal["local", "ray"]


def execute(
    items: Iterable[Item],
    make_worker: Callable[[], Worker],
    record: JsonLines,
    *,
    executor: Executor = "local",
    num_workers: int = 1,
    retries: int = 2,
    on_result: Callable[[Result], object] = lambda result: None,
) -> None:
    """Work on items until each has its result in the record.

    Items that have one already are passed over, so that the same call goes on after a crash.

    Args:
        items: what is to be done: JSON, each with an ``id`` of its own.
        make_worker: builds a worker. For Ray a `WorkerFactory`, which says it in words.
        record: where results are written, one line each, by this process alone.
        executor: ``"local"`` for a worker in this process, ``"ray"`` for actors on a cluster
            (that of ``RAY_ADDRESS`` or of an earlier ``ray.init``, else this machine).
        num_workers: how many workers there are at a time.
        retries: how often an item is tried again after the worker died that had it. After that its
            result is its ``id``, the ``error`` and the number of ``attempts``.
        on_result: is told each result once it is written.

    Raises:
        RuntimeError: one worker after the other dies, and nothing gets done.
        ValueError: two items have one id, or an argument makes no sense.
        ImportError: Ray is not installed.
    """
    if num_workers < 1 or retries < 0:
        raise ValueError(
            f"num_workers must be at least 1 and retries at least 0; got {num_workers}, {retries}"
        )
    queue = Queue((item for item in items if item["id"] not in record.done), retries)
    if not queue.unfinished:
        return
    num_workers = min(num_workers, queue.unfinished)
    pool = _pool(make_worker, executor, num_workers)
    try:
        for result in dispatch(queue, pool, num_workers, retries):
            record.append(result)
            on_result(result)
    finally:
        pool.close()


def _pool(make_worker: Callable[[], Worker], executor: Executor, num_workers: int) -> Pool:
    if executor == "local":
        if num_workers > 1:
            raise ValueError(
                "executor='local' has one worker, since several in one process are no faster: take "
                "a larger batch, or executor='ray'"
            )
        return LocalPool(make_worker)
    if executor == "ray":
        if not isinstance(make_worker, WorkerFactory):
            raise TypeError(
                "executor='ray' builds workers in other processes: make_worker must be a "
                "WorkerFactory, which says how"
            )
        return RayPool(make_worker, num_workers)
    raise ValueError(f"executor must be 'local' or 'ray', not {executor!r}")
