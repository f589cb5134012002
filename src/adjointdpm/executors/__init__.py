"""Work on many items: one worker here, several on a cluster, or a shard a machine."""

from .execute import execute
from .merging import MergeConfig, merge_folders
from .ray_pool import require_ray
from .shards import shard
from .worker import Item, Result, Worker, WorkerFactory

__all__ = [
    "Item",
    "MergeConfig",
    "Result",
    "Worker",
    "WorkerFactory",
    "execute",
    "merge_folders",
    "require_ray",
    "shard",
]
