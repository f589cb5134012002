"""The hooks on the parts of a module, so that it can be run again with those that it had."""

from __future__ import annotations

from typing import Any

from torch import nn

Snapshot = tuple[tuple[dict[int, Any], tuple[Any, ...]], ...]

DICTS = [
    name
    for name, value in vars(nn.Module()).items()
    if isinstance(value, dict) and name.endswith(("hooks", "kwargs", "called"))
    if "state_dict" not in name
]
"""Where a module keeps hooks that run in its calls, forward and backward."""


class Hooks:
    """Which hooks are registered on the parts of a module.

    A hook of the backward pass is set up when a call runs forward, and is no part of its answer:
    one that was registered or removed since would change a gradient without a trace.

    Args:
        module: whose parts.

    >>> linear = nn.Linear(2, 2)
    >>> hooks = Hooks(linear)
    >>> handle = linear.register_forward_hook(print)
    >>> snapshot = hooks.now()
    >>> handle.remove()
    >>> hooks.set(snapshot)
    >>> len(linear._forward_hooks)
    1
    """

    def __init__(self, module: nn.Module) -> None:
        self._dicts = [vars(part)[name] for part in module.modules() for name in DICTS]

    def now(self) -> Snapshot:
        """Return what is registered, for `set`."""
        return tuple((hooks, tuple(hooks.items())) for hooks in filter(None, self._dicts))

    def set(self, snapshot: Snapshot) -> None:
        """Register what a snapshot holds, and nothing else."""
        for hooks in filter(None, self._dicts):
            hooks.clear()
        for hooks, items in snapshot:
            hooks.update(items)
