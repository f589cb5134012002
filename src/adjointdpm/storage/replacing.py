"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
