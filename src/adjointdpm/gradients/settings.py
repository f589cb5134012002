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
    >>> settings = Settings(dropout)
    >>> values = settings.read()
    >>> _ = dropout.eval()
    >>> with settings.restored(values):
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

    def read(self) -> list[Any]:
        """Return the present values."""
        return [getattr(part, name) for part, name in self._places]

    def steady(self, values: list[Any]) -> list[Any]:
        """Return values that were read before, but for what has changed since: see `restored`."""
        return [
            old if old == new else CHANGED for old, new in zip(values, self.read(), strict=True)
        ]

    @contextmanager
    def restored(self, values: list[Any]) -> Iterator[None]:
        """Run a block with values that were read before, and the present ones after it."""
        changed = [
            (part, name, value, present)
            for (part, name), value, present in zip(self._places, values, self.read(), strict=True)
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
