"""Private names of the packages we stand on can go with any release: few, and all listed here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import adjointdpm

SOURCE = Path(adjointdpm.__file__).parent

# Name: the places that use it.
HERE = {"pipelines/diffusers_private"}
DIFFUSERS = {
    "_diffusers_hook": {"recompute/wrappers"},  # hooks of group offloading and of caches
    "_execution_device": HERE,  # where a pipeline with offloaded parts computes
    "_is_stateful": {"recompute/wrappers"},  # of such a hook: whether it keeps something
    "_lora_loadable_modules": {"formats"},  # the parts that an adapter is saved of
    "_name_or_path": {"formats"},  # where a pipeline was loaded from
    "_num_timesteps": HERE,  # set by a pipeline when its loop begins
    "_pack_latents": HERE,  # asked for, not called: what pipelines that pack have
    "_prepare_rotary_positional_embeddings": HERE,  # CogVideoX's
}
ACCELERATE = {"_hf_hook": {"decoding", "pipelines", "recompute"}}  # a module that is offloaded
PLACES = {**DIFFUSERS, **ACCELERATE}
OTHERS = {
    # torch
    "_C",
    "_autograd",
    "_backward_hooks",
    "_cdata",  # the identity of a storage
    "_compiled_call_impl",  # of a module that was compiled in place
    "_current_level",  # of forward mode
    "_current_graph_task_id",  # which run of backward this is
    "_execution_engine",
    "_foreach_add_",
    "_foreach_norm",
    "_functorch",  # whether a transform of torch.func is under way
    "_get_sequence_nr",
    "_lazy_clone",  # a copy that is made when one of the two is written into
    "_orig_mod",  # what torch.compile wrapped
    "_parameters",
    "_python_dispatch",
    "_pytree",
    "_sequence_nr",  # of a node of a graph: when it was made
    "_schema",  # of an operator: which of its results are drawn
    "_subclasses",  # FakeTensorMode
    "_version",  # counts the changes in place of a tensor
    "_asdict",  # of a named tuple
    # argparse
    "_actions",
    "_option_string_actions",
}
"""Of packages whose private names change seldom: in any place."""


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


def used_names(tree: ast.AST) -> Iterator[str]:
    """The attributes and modules that a module names, by a dot, by import or by a string."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name):
                yield name
            case ast.ImportFrom(level=0):
                yield from (node.module or "").split(".")
                yield from (alias.name for alias in node.names)
            case ast.Import():
                yield from (part for alias in node.names for part in alias.name.split("."))
            case ast.Call(func=ast.Name(id="getattr" | "hasattr" | "setattr"), args=[_, key, *_]):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value


@cache
def parsed() -> dict[str, ast.Module]:
    """Our modules by their place."""
    return {
        path.relative_to(SOURCE).with_suffix("").as_posix(): ast.parse(path.read_text())
        for path in sorted(SOURCE.rglob("*.py"))
    }


def uses(modules: dict[str, ast.Module]) -> list[tuple[str, str]]:
    """(name, module) of each private name that is not our own."""
    own = {name for tree in modules.values() for name in members(tree)}
    return [
        (name, module)
        for module, tree in modules.items()
        for name in used_names(tree)
        if private(name) and name not in own
    ]


def unlisted(modules: dict[str, ast.Module]) -> list[tuple[str, str]]:
    return [
        (name, module)
        for name, module in uses(modules)
        if name not in OTHERS and not module.startswith(tuple(PLACES.get(name, ())))
    ]


def test_every_private_name_is_listed() -> None:
    assert not unlisted(parsed()), "find a public way, or list the name here with the reason"


@pytest.mark.parametrize(
    "line",
    [
        "pipe._pack_latents(x)",
        "getattr(pipe, '_guidance_scale', 1)",
        "from diffusers.utils import _hidden",
        "device = pipe._execution_device  # outside its place",
    ],
)
def test_other_names_are_noticed(line: str) -> None:
    assert unlisted({"pipelines/families/new": ast.parse(line)})


def test_every_listed_name_is_used() -> None:
    used = uses(parsed())
    for name, places in PLACES.items():
        for place in places:
            assert any(n == name and module.startswith(place) for n, module in used), (name, place)
    assert {name for name, _ in used} >= OTHERS
