"""Work on many items: one worker here, several on a cluster, or a shard a machine."""

from .execute import execute
from .shards import shard
from .worker import Item, Result, Worker, WorkerFactory

__all__ = [
    "Item",
    "Result",
    "Worker",
    "WorkerFactory",
    "execute",
    "shard",
]
