"""A part of the items for each job of a batch system."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from .worker import Item


def shard(items: Iterable[Item], num_shards: int, shard_index: int) -> list[Item]:
    """Return the items of a shard.

    Which shard an item is in depends on its id alone. So the list may be in any order, and grow
    between two runs, and no item changes over to another shard's file of results.

    Args:
        items: all.
        num_shards: how many shards there are.
        shard_index: which of them, from 0.

    Returns:
        Those of the shard, in their order: about the same number for each.

    Raises:
        ValueError: there is no such shard.
    """
    if not 0 <= shard_index < num_shards:
        raise ValueError(
            f"shard_index is {shard_index}, but there are shards 0 to {num_shards - 1} "
            f"(num_shards={num_shards})"
        )
    return [item for item in items if _number(item["id"]) % num_shards == shard_index]


def _number(name: str) -> int:
    """Return a number that looks drawn, and is the same on every machine (unlike `hash`)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
