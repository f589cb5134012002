"""What is set on the parts of a network besides tensors, so that it can be run again as it was."""

from __future__ import annotations

import enum
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .hooks import Hooks

ABSENT = object()
"""In place of the value of an attribute that is not there."""

INTERNAL = frozenset(vars(nn.Module())) - {"training"}
"""What torch itself keeps on a module."""

PLAIN = (bool, int, float, complex, str, bytes, type(None), enum.Enum, torch.dtype, torch.device)
"""Types of values that are kept as they are."""

CODE = (types.FunctionType, types.MethodType, partial)
"""Methods that were exchanged on an object."""

CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict)
"""Types of values whose contents are kept; not their subclasses, which may resist."""


KEPT = (*PLAIN, *CODE, Tensor, tuple)


class Settings:
    """What is set on the parts of a module: numbers, switches, words, hooks, attention processors.

    ``training`` is one of them, and so are adapters (which is active, and how strong) and a counter
    of calls. Each call is run again with what was set when it ran first. What a call *computed* and
    left on a part must not be there when it is run again, or its answer might be taken from there:
    tensors are as they were before the first of all calls.

    Args:
        module: whose parts.

    >>> dropout = nn.Dropout(0.1)
    >>> settings = Settings(dropout)
    >>> snapshot = settings.now()
    >>> _ = dropout.eval()
    >>> with settings.restored(snapshot):
    ...     dropout.training
    True
    >>> dropout.training
    False
    """

    def __init__(self, module: nn.Module) -> None:
        self._hooks = Hooks(module)
        self._switched = [part for part in module.modules() if _has_processor(part)]
        self._holders = [vars(part) for part in module.modules()]
        processors = (part.processor for part in self._switched)
        self._holders += [vars(p) for p in processors if hasattr(p, "__dict__")]
        self._places: list[tuple[dict[str, Any], str]] = []
        self._sizes: list[int] = []
        self._find()
        self._first = [_copy(value) for value in self._raw()]
        self._last = self._first

    def _find(self) -> None:
        """Find attributes; those that are new come last."""
        known = {(id(holder), name) for holder, name in self._places}
        for holder in self._holders:
            for name, value in holder.items():
                if name in INTERNAL or (known and (id(holder), name) in known):
                    continue
                if isinstance(value, KEPT) or type(value) in CONTAINERS:
                    self._places.append((holder, name))
        self._sizes = [len(holder) for holder in self._holders]

    def _raw(self) -> list[Any]:
        if [len(holder) for holder in self._holders] != self._sizes:
            self._find()
        first = [self._hooks.now(), *[part.processor for part in self._switched]]
        try:
            return [*first, *[holder[name] for holder, name in self._places]]
        except KeyError:
            return [*first, *[holder.get(name, ABSENT) for holder, name in self._places]]

    def now(self) -> list[Any]:
        """Return the present values, for `restored`."""
        present = self._raw()
        if not _same(present, self._last):
            first = [*self._first, *[ABSENT] * (len(present) - len(self._first))]
            self._last = [
                old if _holds_tensors(value) else _copy(value)
                for value, old in zip(present, first, strict=True)
            ]
        return self._last

    def changed_since(self, snapshot: list[Any]) -> list[str]:
        """Return the names of attributes that have other values than in a snapshot."""
        names = ["hooks", *["processor"] * len(self._switched), *[n for _, n in self._places]]
        pairs = zip(names, self._raw(), snapshot, strict=False)
        return sorted({name for name, now, old in pairs if not _same([now], [old])})

    @contextmanager
    def restored(self, snapshot: list[Any]) -> Iterator[None]:
        """Run a block with the values of a snapshot, and with the present ones after it."""
        present = self._raw()
        # What nearly always is there needs no copies of thousands of values.
        before = self._last if _same(present, self._last) else [_copy(value) for value in present]
        self._set(present, snapshot)
        try:
            yield
        finally:
            self._set(self._raw(), before)

    def _set(self, present: list[Any], wanted: list[Any]) -> None:
        if _same(present, wanted):
            return
        wanted = [*wanted, *[ABSENT] * (len(present) - len(wanted))]
        switched = len(self._switched)
        for i, (now, value) in enumerate(zip(present, wanted, strict=True), start=-1):
            if _same([now], [value]):
                continue
            if i < 0:
                self._hooks.set(value)
            elif i < switched:
                part: Any = self._switched[i]
                part.set_processor(value)
            else:
                _assign(*self._places[i - switched], now, value)


def _has_processor(part: Any) -> bool:
    return hasattr(part, "set_processor") and hasattr(part, "processor")


def _assign(holder: dict[str, Any], name: str, now: Any, value: Any) -> None:
    if value is ABSENT:
        holder.pop(name, None)
    elif type(now) is type(value) and type(value) in CONTAINERS:
        # In place: others may hold the same container.
        now.clear()
        now.extend(value) if isinstance(value, list | deque) else now.update(value)
    else:
        holder[name] = _copy(value)


def _copy(value: Any) -> Any:
    return value.copy() if type(value) in CONTAINERS else value


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, (*CONTAINERS, tuple)):
        items = value.values() if isinstance(value, dict) else value
        return any(_holds_tensors(item) for item in items)
    return isinstance(value, Tensor)


def _same(values: list[Any], others: list[Any]) -> bool:
    """Compare by identity first, which is quick; tensors that differ cannot be compared."""
    try:
        return values == others
    except (RuntimeError, ValueError, TypeError):
        return False
