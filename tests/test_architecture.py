"""The layout is the architecture: modules import from the floors below them only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import adjointdpm

SOURCE = Path(adjointdpm.__file__).parent

FLOORS = [
    "version",
    "noise",
    "process",
    "prediction",
    "program",
    "probe",
    "plan",
    "denoiser",
    "execution",
    "solvers",
    "gradients",
    "cost",
    "sampler",
    "certificate",
    "formats",
    "pipelines",
    "objectives",
    "assets",
    "tasks",
    "evaluation",
    "report",
    "cli",
    "__main__",
]


def _room(module: str) -> str:
    """Return the top-level module or folder of a dotted name within the package."""
    return module.split(".")[0]


def _imports(path: Path) -> set[str]:
    """Return the rooms of the package that a file imports from."""
    here = path.relative_to(SOURCE).with_suffix("").parts
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = here[: len(here) - node.level]
                target = [*base, *(node.module or "").split(".")]
                names = [part for part in target if part] or [alias.name for alias in node.names]
            elif node.module and node.module.split(".")[0] == "adjointdpm":
                names = node.module.split(".")[1:] or [alias.name for alias in node.names]
            else:
                continue
            rooms.add(_room(names[0]))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "adjointdpm" and len(parts) > 1:
                    rooms.add(parts[1])
    return rooms


FILES = sorted(p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_downwards(path: Path) -> None:
    room = path.relative_to(SOURCE).with_suffix("").parts[0]
    assert room in FLOORS, f"{room} has no floor yet: put it into FLOORS"
    for imported in _imports(path) - {room}:
        assert imported in FLOORS, f"{room} imports {imported}, which has no floor"
        assert FLOORS.index(imported) < FLOORS.index(room), f"{room} must not import {imported}"


def test_nothing_is_called_utils() -> None:
    assert not [path for path in FILES if "util" in path.stem]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_pickle(path: Path) -> None:
    text = path.read_text()
    assert "import pickle" not in text
    assert "torch.load(" not in text
