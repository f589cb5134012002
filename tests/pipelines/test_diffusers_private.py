"""What other libraries do not promise to keep is used in named places only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import adjointdpm

SOURCE = Path(adjointdpm.__file__).parent
ROOMS = ("pipelines", "decoding", "formats", "assets")
FILES = sorted(path for room in ROOMS for path in (SOURCE / room).rglob("*.py"))
DIFFUSERS = {
    "_execution_device",
    "_num_timesteps",
    "_diffusers_hook",
    "_prepare_rotary_positional_embeddings",
}
"""Used in `pipelines.diffusers_private`, where a new version of diffusers is met."""

OTHERS = {
    "_orig_mod",  # torch.compile's own module, which there is no public way to
    "_hf_hook",  # accelerate's hooks of offloading
    "_name_or_path",  # where a model was loaded from, in the config that diffusers writes
    "_lora_loadable_modules",  # which parts of a pipeline its loading of adapters looks at
}


def _names(tree: ast.AST) -> Iterator[str]:
    """Yield the attributes that are read of anything but ``self``, by dot or by string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
            yield from (a.value for a in node.args[1:2] if isinstance(a, ast.Constant))
        elif isinstance(node, ast.Compare):
            yield from (n.value for n in [node.left] if isinstance(n, ast.Constant))


def _private(text: str) -> set[str]:
    tree = ast.parse(text)
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    names = {str(name) for name in _names(tree)} - own
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_private_names_stay_in_their_place(path: Path) -> None:
    allowed = OTHERS | (DIFFUSERS if path.stem == "diffusers_private" else set())
    assert _private(path.read_text()) <= allowed


def test_every_allowed_name_is_used() -> None:
    used = set().union(*(_private(path.read_text()) for path in FILES))
    assert used >= DIFFUSERS | OTHERS


@pytest.mark.parametrize("line", ["pipe._pack_latents(x)", "getattr(pipe, '_guidance_scale', 1)"])
def test_other_names_would_be_noticed(line: str) -> None:
    assert not _private(line) <= DIFFUSERS | OTHERS
