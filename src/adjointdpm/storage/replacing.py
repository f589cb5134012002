"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = re.compile(r"\..+\.\w{8}")
"""The names of folders that are written into and then renamed."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write beside ``path``, and rename it to ``path`` once all is written.

    Until then ``path`` is what it was, whatever happens. It keeps the permissions that it had; a
    new file gets those that any program's new files get.

    Args:
        path: the file; its folder is made if there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        partial = Path(folder) / path.name
        yield partial
        # Some writers (safetensors) make files that only their owner may read.
        partial.chmod(_permissions(path, Path(folder)))
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # a crash of the machine must not leave a name without content
        os.replace(partial, path)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill beside ``path``, and rename it to ``path`` once all is in it.

    Args:
        path: the folder; what stood there is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        partial = Path(folder) / path.name
        partial.mkdir()
        yield partial
        remove_folder(path)
        os.replace(partial, path)


def remove_folder(path: Path) -> None:
    """Remove a folder, if there is one; whoever looks finds it whole or not at all."""
    if path.is_dir():
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            os.replace(path, Path(folder) / path.name)


def remove_partial(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder, and in those below it.

    Args:
        folder: one that nobody else writes into.
    """
    for path in [p for p in folder.rglob(".*") if PARTIAL.fullmatch(p.name) and p.is_dir()]:
        shutil.rmtree(path, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file, in UTF-8."""
    write_bytes(path, text.encode())


def _permissions(path: Path, folder: Path) -> int:
    """Return those of a file if it exists, else what the process gives to new files."""
    if not path.exists():
        path = folder / "new"  # the process's umask cannot be read without setting it
        path.touch()
    return path.stat().st_mode & 0o777
