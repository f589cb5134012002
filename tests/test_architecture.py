"""The layout is the architecture: what may import what, and what a face is."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import adjointdpm
from adjointdpm.cli.commands import COMMANDS

SOURCE = Path(adjointdpm.__file__).parent

FLOORS = [
    "version",
    "storage",
    "schedule",
    "prediction",
    "form",
    "memory",
    "sharded",
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
    "path",
    "sampler",
    "inversion",
    "guided",
    "certificate",
    "decoding",
    "formats",
    "pipelines",
    "features",
    "objectives",
    "assets",
    "targets",
    "variables",
    "evaluation",
    "attacks",
    "executors",
    "runs",
    "setup",
    "report",
    "jobs",
    "tour",
    "cli",
    "__main__",
]

LAZY_FACES = {"solvers"}
"""Faces that hand on names of upper rooms when they are asked for, since users know them there."""

LAZY = "__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)"
"""All the code of a face that imports nothing before it must; its stub says what it hands on."""

DIFFUSERS = {"pipelines", "formats", "assets"}

FILES = sorted(p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py")
FACES = [path for path in FILES if path.name == "__init__.py"]
STUBS = sorted(SOURCE.rglob("__init__.pyi"))


@cache
def _tree(path: Path) -> ast.Module:
    """Return what is written in a file."""
    return ast.parse(path.read_text())


@cache
def _nodes(path: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of a file."""
    return tuple(ast.walk(_tree(path)))


def _name(path: Path) -> str:
    """Return the dotted name of a file within the package."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path) for path in FILES}


def _room(module: str) -> str:
    """Return the top-level module or folder of a dotted name within the package."""
    return module.split(".")[0]


@cache
def _handed_on(module: str) -> set[str]:
    """Return the names that a face hands on."""
    face = SOURCE.joinpath(*module.split("."), "__init__.py")
    face = stub if (stub := face.with_suffix(".pyi")).is_file() else face
    nodes = _tree(face).body if module and face.is_file() else []
    return {a.asname or a.name for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names}


def _imports(path: Path, *, lazy: bool = True) -> Iterator[str]:
    """Yield the modules of the package that a file imports from, within functions too."""
    nodes = _nodes(path) if lazy else _tree(path).body
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


def _every_import() -> Iterator[tuple[Path, str]]:
    return ((path, module) for path in FILES for module in _imports(path))


def test_every_room_has_a_floor() -> None:
    rooms = {_room(module) for module in MODULES}
    assert rooms <= set(FLOORS), f"put them into FLOORS: {rooms - set(FLOORS)}"


def test_imports_go_downwards() -> None:
    for path in FILES:
        room = _room(_name(path))
        lazy = not (path in FACES and room in LAZY_FACES)
        for imported in {_room(module) for module in _imports(path, lazy=lazy)} - {room}:
            assert imported in FLOORS, f"{_id(path)} imports {imported}, which has no floor"
            upwards = FLOORS.index(imported) >= FLOORS.index(room)
            assert not upwards, f"{_id(path)} must not import {imported}"


def test_other_rooms_are_entered_by_their_face() -> None:
    for path, module in _every_import():
        if _room(module) == _room(_name(path)):
            continue
        where = SOURCE.joinpath(*module.split("."))
        depth = len(module.split("."))
        is_face = depth == 1 or (_room(module) == "jobs" and depth == 2)
        assert is_face, f"{_id(path)} enters {module} by the window; import from its face"
        assert where.is_dir() or where.with_suffix(".py").is_file(), f"{_id(path)}: {module}"


def test_jobs_do_not_import_jobs() -> None:
    for path, module in _every_import():
        if _room(_name(path)) == _room(module) == "jobs":
            package = _name(path).split(".")[:2]
            assert module.split(".")[:2] == package, f"{_id(path)} imports {module}"


def test_no_circle_inside_a_room() -> None:
    graph = {_name(p): {m for m in _imports(p) if m != _name(p)} for p in FILES if p not in FACES}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"imports run in a circle: {' -> '.join(error.args[1])}")


def test_lazy_faces_hold_one_line() -> None:
    for stub in STUBS:
        lines = [ast.unparse(node) for node in _tree(stub.with_suffix(".py")).body]
        assert lines[1:] == ["import lazy_loader", LAZY], _id(stub)


def test_faces_hold_no_code() -> None:
    for path in [p for p in FACES if p.with_suffix(".pyi") not in STUBS] + STUBS:
        for node in _tree(path).body:
            hands_on = isinstance(node, ast.ImportFrom | ast.Import | ast.Expr)
            names = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            lazy = _name(path) in LAZY_FACES and getattr(node, "name", "") == "__getattr__"
            assert hands_on or names or lazy, f"{_id(path)} holds code: {ast.unparse(node)[:60]}"


QUICK = [
    "import adjointdpm; dir(adjointdpm)",
    "from adjointdpm.cli import main; main(['--version'])",
    "from adjointdpm.cli import main; main(['--help'])",
    *[f"from adjointdpm.cli import main; main([{name!r}, '--help'])" for name in COMMANDS],
]


@pytest.mark.parametrize("code", QUICK)
def test_what_must_be_quick_imports_nothing_large(code: str) -> None:
    """Counted in modules: a clock would measure the machine."""
    code = f"""
import sys
try:
    {code}
except SystemExit as stop:
    assert stop.code == 0
large = {{"torch", "numpy", "diffusers", "transformers", "matplotlib", "safetensors"}}
print("imported:", *large.intersection(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("imported:\n"), done.stdout + done.stderr


def test_the_face_hands_on_all_that_it_names() -> None:
    for name in adjointdpm.__all__:
        assert getattr(adjointdpm, name) is not None
    assert set(dir(adjointdpm)) == set(adjointdpm.__all__) == _handed_on_by_the_package()
    with pytest.raises(AttributeError, match="no_such_name"):
        adjointdpm.no_such_name  # noqa: B018


def _handed_on_by_the_package() -> set[str]:
    [names] = [
        ast.literal_eval(node.value)
        for node in _tree(SOURCE / "__init__.pyi").body
        if isinstance(node, ast.Assign)
    ]
    return set(names)


def test_diffusers_stays_in_its_rooms() -> None:
    for path in FILES:
        if not DIFFUSERS.isdisjoint((_room(_name(path)), _id(path))):
            continue
        for node in _nodes(path):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            assert not any(n.split(".")[0] == "diffusers" for n in names), f"{_id(path)}: {names}"


METHODS = {
    cls.__name__
    for cls in (getattr(adjointdpm, name) for name in adjointdpm.__all__)
    if isinstance(cls, type)
    and issubclass(cls, adjointdpm.GradientMethod)
    and cls is not adjointdpm.GradientMethod
}
"""The concrete gradient methods."""


def _asked_types(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the names that a module's nodes compare types with."""
    for node in nodes:
        asked: list[ast.expr] = []
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {
            "isinstance",
            "issubclass",
        }:
            asked = node.args[1:]
        elif isinstance(node, ast.Compare) and "type(" in ast.unparse(node.left):
            asked = node.comparators
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        for part in (part for tree in asked for part in ast.walk(tree)):
            if isinstance(part, ast.Name | ast.Attribute):
                yield part.id if isinstance(part, ast.Name) else part.attr


def test_nobody_asks_which_gradient_method_it_is() -> None:
    """What a method is like, it says itself: a new one is one new file."""
    for path in FILES:
        if _room(_name(path)) == "gradients" and len(_name(path).split(".")) > 1:
            continue
        asked = METHODS.intersection(_asked_types(_nodes(path)))
        assert not asked, f"{_id(path)} tests for {asked}: ask the method (gradients/method.py)"


def test_that_test_can_fail() -> None:
    for text in (
        "isinstance(m, (Exact, str))",
        "type(m) in (adp.Exact,)",
        "isinstance(m, a.Exact)",
    ):
        assert set(_asked_types(ast.walk(ast.parse(text)))) & METHODS == {"Exact"}


def test_nothing_is_called_utils() -> None:
    assert not [path for path in FILES if "util" in path.stem]


def test_no_pickle() -> None:
    for path in FILES:
        text = path.read_text()
        assert "import pickle" not in text, _id(path)
        assert "torch.load(" not in text, _id(path)
