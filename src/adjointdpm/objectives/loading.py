"""What a user wrote, by its name: an objective, or anything else."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from .objective import Objective, as_objective


def load_objective(spec: str, larger_is_better: bool | None = None) -> Objective:
    """Return the objective that ``package.module:name`` stands for.

    It may be an `Objective`, a class that is made without arguments, or any callable from pictures
    (batch, 3, height, width) in [0, 1] to (batch,) numbers. Modules in the current folder are found
    too.

    Args:
        spec: the module and, after a colon, the name in it; ``name.attribute`` works too.
        larger_is_better: the direction, if what is named does not say it itself.

    Raises:
        ValueError: the module or the name does not exist, or the direction is not said.
        TypeError: what is named cannot be called, or its class needs arguments.
    """
    found = load_by_name(spec)
    if isinstance(found, type):
        found = _instance(found, spec)
    if not callable(found):
        raise TypeError(
            f"{spec} is a {type(found).__name__} and cannot be called: name a function from "
            "pictures (batch, 3, height, width) in [0, 1] to one number each"
        )
    return as_objective(found, larger_is_better)


def load_by_name(spec: str) -> Any:
    """Return what ``package.module:name`` stands for.

    Args:
        spec: as `load_objective` takes it.

    Raises:
        ValueError: the module or the name does not exist.
    """
    module_name, colon, name = spec.partition(":")
    if not (colon and module_name and name):
        raise ValueError(
            f"{spec!r} names nothing of yours: write module:name, such as my_metrics:sharpness"
        )
    found: Any = _import(module_name, spec)
    for part in name.split("."):
        if not hasattr(found, part):
            near = get_close_matches(part, dir(found), n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            where = getattr(found, "__file__", None) or module_name
            raise ValueError(f"{spec}: there is no {part!r} in {where}{hint}")
        found = getattr(found, part)
    return found


def _import(module_name: str, spec: str) -> ModuleType:
    try:
        with _current_folder_is_searched():
            return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(missing + "."):
            raise ValueError(
                f"{spec}: there is no module {missing!r}, neither installed nor in {Path.cwd()}"
            ) from None
        raise ValueError(
            f"{spec}: the module {module_name} imports {missing!r}, which is not installed"
        ) from error


@contextmanager
def _current_folder_is_searched() -> Iterator[None]:
    # An installed command, unlike `python -m`, does not look into the folder it is called from.
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _instance(cls: type, spec: str) -> nn.Module:
    needed = [
        p.name
        for p in inspect.signature(cls).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if needed:
        raise TypeError(
            f"{spec} is a class that needs {', '.join(needed)}: make the objective in your module "
            "and name that"
        )
    return cls()
