"""Private names of the packages we stand on can go with any release: few, and all listed here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import adjointdpm

SOURCE = Path(adjointdpm.__file__).parent

# Name: the rooms that use it.
DIFFUSERS = {
    "_diffusers_hook": {"pipelines"},  # hooks of group offloading and of caches
    "_execution_device": {"pipelines"},  # where a pipeline with offloaded parts computes
    "_lora_loadable_modules": {"formats"},  # the parts that an adapter is saved of
    "_name_or_path": {"formats"},  # where a pipeline was loaded from
    "_num_timesteps": {"pipelines"},  # set by a pipeline when its loop begins
    "_prepare_rotary_positional_embeddings": {"pipelines"},  # CogVideoX's
}
ACCELERATE = {"_hf_hook": {"decoding", "pipelines", "recompute"}}  # a module that is offloaded
ROOMS = {**DIFFUSERS, **ACCELERATE}
TORCH = {
    "_C",
    "_cdata",  # the identity of a storage
    "_compiled_call_impl",  # of a module that was compiled in place
    "_current_graph_task_id",  # which run of backward this is
    "_foreach_add_",
    "_orig_mod",  # what torch.compile wrapped
    "_python_dispatch",
    "_pytree",
    "_subclasses",  # FakeTensorMode
}


def private(name: str) -> bool:
    """Whether a name has one underscore in front."""
    return len(name) > 1 and name[0] == "_" and name[1] != "_"


def members(tree: ast.AST) -> Iterator[str]:
    """The methods and fields of a module's classes."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef():
                for part in node.body:
                    if isinstance(part, ast.FunctionDef):
                        yield part.name
                    elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                        yield part.target.id
            case ast.Attribute(value=ast.Name(id="self"), ctx=ast.Store()):
                yield node.attr


def used_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The attributes and modules that a module names, by a dot, by import or by a string."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name):
                yield name, node.lineno
            case ast.ImportFrom(level=0):
                for name in [*(node.module or "").split("."), *(a.name for a in node.names)]:
                    yield name, node.lineno
            case ast.Import():
                for name in (part for a in node.names for part in a.name.split(".")):
                    yield name, node.lineno
            case ast.Call(func=ast.Name(id="getattr" | "hasattr" | "setattr"), args=[_, key, *_]):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value, node.lineno


def uses() -> list[tuple[str, str, str]]:
    """(name, room, place) of each private name in our sources that is not our own."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
    own = {name for tree in trees.values() for name in members(tree)}
    return [
        (name, path.relative_to(SOURCE).with_suffix("").parts[0], f"{path}:{line}")
        for path, tree in trees.items()
        for name, line in used_names(tree)
        if private(name) and name not in own
    ]


def test_every_private_name_is_listed() -> None:
    new = [
        f"{name} at {place}"
        for name, room, place in uses()
        if name not in TORCH and room not in ROOMS.get(name, ())
    ]
    assert not new, "find a public way, or list the name here with the reason"


def test_every_listed_name_is_used() -> None:
    used = {(name, room) for name, room, _ in uses()}
    assert {(name, room) for name, rooms in ROOMS.items() for room in rooms} <= used
    assert {name for name, _ in used} >= TORCH
