"""What is set on the parts of a network besides weights, so that it can be run again as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

CHANGED = object()
"""In place of a value that the module changed itself, which is to be left alone."""


class Settings:
    """Switches and words on the parts of a module, and their processors of attention.

    ``training`` is one of them. Some pipelines set others for the time of a few calls: perturbed
    attention exchanges processors, GLIGEN switches its boxes off. What changes while the module
    runs is its own state, which is left alone; so are numbers, which may count.

    Args:
        module: whose parts.

    >>> dropout = nn.Dropout(0.1)
    >>> snapshot = Settings(dropout).now()
    >>> _ = dropout.eval()
    >>> with snapshot.restored():
    ...     dropout.training
    True
    >>> dropout.training
    False
    """

    def __init__(self, module: nn.Module) -> None:
        self._places: list[tuple[Any, str]] = []
        for part in module.modules():
            if hasattr(part, "set_processor") and hasattr(part, "processor"):
                self._places.append((part, "processor"))
            names = (name for name, value in vars(part).items() if isinstance(value, bool | str))
            self._places += [(part, name) for name in names if not name.startswith("_")]

    def now(self) -> Snapshot:
        """Return the present values."""
        return Snapshot(self._places)


class Snapshot:
    """Settings as they were, see `Settings`.

    Args:
        places: modules, and names of attributes of them.
    """

    def __init__(self, places: list[tuple[Any, str]]) -> None:
        self._places = places
        self._values = self._read()

    def _read(self) -> list[Any]:
        return [getattr(part, name) for part, name in self._places]

    def settle(self) -> None:
        """Leave alone what has changed since: the module has run, and changed it itself."""
        pairs = zip(self._values, self._read(), strict=True)
        self._values = [old if old == new else CHANGED for old, new in pairs]

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Run a block with these values, and with the present ones after it."""
        changed = [
            (part, name, value, present)
            for (part, name), value, present in zip(
                self._places, self._values, self._read(), strict=True
            )
            if value is not CHANGED and value != present
        ]
        for part, name, value, _ in changed:
            _set(part, name, value)
        try:
            yield
        finally:
            for part, name, _, present in changed:
                _set(part, name, present)


def _set(part: Any, name: str, value: Any) -> None:
    if name == "processor":
        part.set_processor(value)
    else:
        setattr(part, name, value)
