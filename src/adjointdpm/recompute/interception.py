"""Answering method calls of given objects in place of the methods, in this thread and block only.

While a block is open, the class of each object is a subclass with the same name whose methods first
look whether a block of the present context (thread or task) wants to answer. Nobody else sees a
difference: for other threads the methods do what they always did, ``isinstance`` holds, the object
is saved and copied as what it was, and its own class comes back with the end of the last block.
"""

from __future__ import annotations

import copy
import functools
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

Handler = Callable[..., Any]
"""Called as ``handler(method, *args, **kwargs)`` with the bound method that it stands in for."""

Handlers = Mapping[tuple[Any, str], Handler]
"""What answers, by object and name of the method."""


@dataclass
class Layer:
    """The handlers of one block; the objects are kept alive with it."""

    handlers: dict[tuple[int, str], Handler]
    objects: list[Any]
    open: bool = True


_LAYERS: ContextVar[tuple[Layer, ...]] = ContextVar("adjointdpm_layers", default=())


@dataclass
class Users:
    """How many open blocks, in any thread, want to answer which methods of an object."""

    own_class: type
    names: Counter[str] = field(default_factory=Counter)


_USERS: dict[int, Users] = {}
_LOCK = threading.Lock()


@contextmanager
def intercepted(handlers: Handlers) -> Iterator[None]:
    """Let handlers answer the calls that are made in this block.

    Blocks may be nested, overlap, be open in several threads and be left in any order; of several
    that would answer a call, the one entered last does.

    Args:
        handlers: by object and name of the method; see `inherited` for those behind ``super()``.
    """
    by_name = {(id(thing), name): handler for (thing, name), handler in handlers.items()}
    layer = Layer(by_name, [thing for thing, _ in handlers])
    entered: list[tuple[Any, str]] = []
    try:
        for thing, name in handlers:
            _enter(thing, name)
            entered.append((thing, name))
        _LAYERS.set((*_LAYERS.get(), layer))
        yield
    finally:
        layer.open = False
        _LAYERS.set(tuple(other for other in _LAYERS.get() if other.open))
        for thing, name in entered:
            _leave(thing, name)


def _handler(thing: Any, name: str) -> Handler | None:
    for layer in reversed(_LAYERS.get()):
        if layer.open and (id(thing), name) in layer.handlers:
            return layer.handlers[id(thing), name]
    return None


def own_class(thing: Any) -> type:
    """Return the class of an object, also while it is intercepted."""
    users = _USERS.get(id(thing))
    return type(thing) if users is None else users.own_class


def _enter(thing: Any, name: str) -> None:
    with _LOCK:
        users = _USERS.setdefault(id(thing), Users(type(thing)))
        users.names[name] += 1
        _set_class(thing, _answering(users.own_class, frozenset(users.names)))


def _leave(thing: Any, name: str) -> None:
    with _LOCK:
        users = _USERS[id(thing)]
        users.names -= Counter([name])
        if users.names:
            _set_class(thing, _answering(users.own_class, frozenset(users.names)))
        else:
            _set_class(thing, users.own_class)
            del _USERS[id(thing)]


def _set_class(thing: Any, cls: type) -> None:
    # Past the object's own __setattr__, which modules and pipelines define.
    object.__setattr__(thing, "__class__", cls)


@functools.cache
def _answering(own: type, names: frozenset[str]) -> type:
    """Return the subclass of ``own`` whose methods ``names`` look for a handler."""
    namespace: dict[str, Any] = {
        name: _method(own, name, name) for name in names if ":" not in name
    }
    namespace["__module__"] = own.__module__
    namespace["__qualname__"] = own.__qualname__
    namespace["__doc__"] = own.__doc__

    cls: Any = type(own.__name__, (own, *_stand_ins(own, names)), namespace)

    def reduce(self: Any, protocol: Any) -> Any:
        function, args, *state = super(cls, self).__reduce_ex__(protocol)
        return function, tuple(own if x is cls else x for x in args), *state

    cls.__reduce_ex__ = reduce
    return cls


def inherited(base: type, name: str) -> str:
    """Return how `Handlers` call a method of a base class that ``super()`` reaches."""
    return f"{base.__module__}.{base.__qualname__}:{name}"


def _stand_ins(own: type, names: frozenset[str]) -> Iterator[type]:
    """Yield subclasses of base classes, to stand in front of them in the order of methods."""
    for base in own.__mro__[1:]:
        wanted = {name: inherited(base, name) for name in vars(base)}
        methods = {name: _method(base, name, key) for name, key in wanted.items() if key in names}
        if methods:
            yield type(base.__name__, (base,), methods)


def _copied(thing: Any, memo: dict[int, Any]) -> Any:
    """Return a deep copy, of the object's own class."""
    cls: Any = own_class(thing)
    memo[id(thing)] = twin = cls.__new__(cls)
    vars(twin).update(copy.deepcopy(vars(thing), memo))
    return twin


DEFAULTS: dict[str, Callable[..., Any]] = {"__deepcopy__": _copied}
"""What methods do that a class can have and need not."""


def _method(own: type, name: str, key: str) -> Callable[..., Any]:
    function = getattr(own, name, None) or DEFAULTS[name]
    is_static = isinstance(inspect.getattr_static(own, name, None), staticmethod)

    @functools.wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        stock = function if is_static else functools.partial(function, self)
        handler = _handler(self, key)
        return stock(*args, **kwargs) if handler is None else handler(stock, *args, **kwargs)

    return method
