"""Packages that a target may need and that this one does not bring."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def optional(name: str, install: str) -> Any:
    """Return a module of a package that may not be installed.

    Args:
        name: of the module.
        install: what brings it, as pip takes it.

    Raises:
        ImportError: it, or something that it imports, is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        because = "" if name.split(".")[0] == missing else f", which {name} imports,"
        raise ImportError(
            f"the package {missing}{because} is not installed: pip install {install}",
            name=missing,
        ) from error
