"""The layout is the architecture: what may import what, and what a face is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import adjointdpm

SOURCE = Path(adjointdpm.__file__).parent

FLOORS = [
    "version",
    "schedule",
    "prediction",
    "form",
    "memory",
    "recompute",
    "plan",
    "per_step",
    "conditioning",
    "guidance",
    "denoiser",
    "solvers",
    "adaptive",
    "baselines",
    "gradients",
    "cost",
    "sampler",
    "certificate",
    "decoding",
    "formats",
    "pipelines",
    "features",
    "objectives",
    "assets",
    "variables",
    "evaluation",
    "runs",
    "report",
    "jobs",
    "cli",
    "__main__",
]

LAZY_FACES = {"solvers"}
"""Faces that hand on names of upper rooms when they are asked for, since users know them there."""

DIFFUSERS = {"plan/scheduler.py", "plan/draws.py", "solvers/grid.py", "runs/machine.py",
             "cli/main.py", "pipelines", "formats", "assets"}  # fmt: skip

FILES = sorted(p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py")
FACES = [path for path in FILES if path.name == "__init__.py"]


def _name(path: Path) -> str:
    """Return the dotted name of a file within the package."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path) for path in FILES}


def _room(module: str) -> str:
    """Return the top-level module or folder of a dotted name within the package."""
    return module.split(".")[0]


def _handed_on(module: str) -> set[str]:
    """Return the names that a face hands on."""
    face = SOURCE.joinpath(*module.split("."), "__init__.py")
    nodes = ast.parse(face.read_text()).body if module and face.is_file() else []
    return {a.asname or a.name for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names}


def _imports(path: Path, *, lazy: bool = True) -> Iterator[str]:
    """Yield the modules of the package that a file imports from, within functions too."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if lazy else iter(tree.body)
    package = path.relative_to(SOURCE).parent.parts
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            if node.level:
                module = [*package[: len(package) - node.level + 1], *module]
            elif module[0] == "adjointdpm":
                module = module[1:]
            else:
                continue
            handed_on = _handed_on(".".join(module))
            for alias in node.names:
                full = ".".join([*module, alias.name])
                is_module = full in MODULES and alias.name not in handed_on
                yield full if is_module else ".".join(module)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("adjointdpm."):
                    yield alias.name.removeprefix("adjointdpm.")


def _id(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("path", FILES, ids=_id)
def test_imports_go_downwards(path: Path) -> None:
    room = _room(_name(path))
    assert room in FLOORS, f"{room} has no floor yet: put it into FLOORS"
    lazy = not (path in FACES and room in LAZY_FACES)
    for imported in {_room(module) for module in _imports(path, lazy=lazy)} - {room}:
        assert imported in FLOORS, f"{room} imports {imported}, which has no floor"
        assert FLOORS.index(imported) < FLOORS.index(room), f"{room} must not import {imported}"


@pytest.mark.parametrize("path", FILES, ids=_id)
def test_other_rooms_are_entered_by_their_face(path: Path) -> None:
    for module in _imports(path):
        if _room(module) == _room(_name(path)):
            continue
        where = SOURCE.joinpath(*module.split("."))
        depth = len(module.split("."))
        is_face = depth == 1 or (_room(module) == "jobs" and depth == 2)
        assert is_face, f"{_id(path)} enters {module} by the window; import from its face"
        assert where.is_dir() or where.with_suffix(".py").is_file()


def test_no_circle_inside_a_room() -> None:
    graph = {_name(p): {m for m in _imports(p) if m != _name(p)} for p in FILES if p not in FACES}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"imports run in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("path", FACES, ids=_id)
def test_faces_hold_no_code(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        hands_on = isinstance(node, ast.ImportFrom | ast.Import | ast.Expr)
        names = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        lazy = _name(path) in LAZY_FACES and getattr(node, "name", "") == "__getattr__"
        assert hands_on or names or lazy, f"{_id(path)} holds code: {ast.unparse(node)[:60]}"


@pytest.mark.parametrize("path", FILES, ids=_id)
def test_diffusers_stays_in_its_rooms(path: Path) -> None:
    if not DIFFUSERS.isdisjoint((_room(_name(path)), _id(path))):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        assert not any(n.split(".")[0] == "diffusers" for n in names), f"{_id(path)}: {names}"


def test_nothing_is_called_utils() -> None:
    assert not [path for path in FILES if "util" in path.stem]


@pytest.mark.parametrize("path", FILES, ids=_id)
def test_no_pickle(path: Path) -> None:
    text = path.read_text()
    assert "import pickle" not in text
    assert "torch.load(" not in text
