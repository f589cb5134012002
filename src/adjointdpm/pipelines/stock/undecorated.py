"""The methods of a pipeline without the ``no_grad`` that decorates them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from ...recompute import inherited

Method = Callable[..., Any]


def without_no_grad(cls: type) -> dict[str, Method]:
    """Return the methods of a pipeline that are decorated to run without gradients, undecorated.

    Those of base classes that are only reached by ``super()`` are named as `inherited` names them.
    """
    methods: dict[str, Method] = {}
    seen: set[str] = set()
    for base in cls.__mro__:
        for name, function in vars(base).items():
            if _has_no_grad(function):
                methods[inherited(base, name) if name in seen else name] = function.__wrapped__
            seen.add(name)
    return methods


def _has_no_grad(function: Any) -> bool:
    if not inspect.isfunction(function) or not hasattr(function, "__wrapped__"):
        return False
    context = inspect.getclosurevars(function).nonlocals.get("ctx_factory")
    return isinstance(getattr(context, "__self__", None), torch.no_grad | torch.inference_mode)
