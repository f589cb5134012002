"""What works on items, and how another process builds it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

Item = Mapping[str, Any]
"""What is to be done: JSON, with a string ``id`` of its own."""
Result = Mapping[str, Any]
"""What came of an item: JSON, with the item's ``id``."""


class Worker(Protocol):
    """Works on several items at once, update by update."""

    @property
    def capacity(self) -> int:
        """How many items it works on at most."""

    def advance(self, items: Sequence[Item]) -> list[Result]:
        """Take new items into free slots, and make one update of all items.

        Args:
            items: new ones, at most as many as there are free slots; often none.

        Returns:
            The results of those items that ended with this update. Their slots are free.
        """


@dataclass(frozen=True)
class WorkerFactory:
    """Says how to build a worker, in words that another process understands.

    Args:
        function: where the function is that returns a worker: ``"package.module:function"``.
        config: its arguments, by name; JSON.

    Raises:
        ValueError: the function's name has no colon, or the arguments are no JSON.
    """

    function: str
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.function.count(":") != 1:
            raise ValueError(f"function must be 'package.module:function', not {self.function!r}")
        self.to_json()

    def __call__(self) -> Worker:
        """Import the function and build the worker."""
        module, name = self.function.split(":")
        worker: Worker = getattr(import_module(module), name)(**self.config)
        return worker

    def to_json(self) -> str:
        """Return what `from_json` reads."""
        try:
            return json.dumps({"function": self.function, "config": self.config})
        except TypeError as error:
            raise ValueError(f"the config of {self.function} is no JSON: {error}") from None

    @classmethod
    def from_json(cls, text: str) -> WorkerFactory:
        """Return what `to_json` wrote."""
        return cls(**json.loads(text))
