"""A file of results that only ever grows: one JSON object a line, each with an id of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .replacing import write_bytes

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class JsonLines:
    """Results as they come; what was appended is on the disk when `append` returns.

    A crash in the middle of a line leaves one without an end. It is cut off when the file is opened
    again; nothing else of it is ever rewritten. One process at a time may have it open.

    Args:
        path: the file; it is made, with its folder, if there is none.

    Raises:
        BlockingIOError: another process has it open.
        ValueError: a line is no JSON object with an ``id``, or an id is there twice.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "results.jsonl"
        >>> with JsonLines(path) as results:
        ...     results.append({"id": "car-0", "success": True})
        >>> with JsonLines(path) as results:
        ...     "car-0" in results.done
        True
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        self._file = self.path.open("ab", buffering=0)
        try:
            _lock(self._file.fileno(), self.path)
            self._size = _whole(self.path)
            self._file.truncate(self._size)
            self._done = {result["id"] for result in read_json_lines(self.path)}
        except BaseException:
            self._file.close()
            raise
        if is_new:
            _sync_folder(self.path.parent)

    @property
    def done(self) -> Set[str]:
        """The ids in the file."""
        return self._done

    def append(self, result: Mapping[str, Any]) -> None:
        """Write a result.

        Args:
            result: JSON, with an ``id``.

        Raises:
            ValueError: its id is in the file already, or it is no JSON (NaN is none).
            OSError: the disk is full, say; the file is as it was before.
        """
        line = json_line(result)
        if result["id"] in self._done:
            raise ValueError(f"{self.path} has a result of {result['id']!r} already")
        try:
            if self._file.write(line) != len(line):
                raise OSError(f"{self.path} could not be written to the end; is the disk full?")
            os.fsync(self._file.fileno())
        except BaseException:
            self._file.truncate(self._size)
            raise
        self._size += len(line)
        self._done.add(result["id"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Read all results, in the order in which they came."""
        return read_json_lines(self.path)

    def __len__(self) -> int:
        return len(self._done)

    def close(self) -> None:
        """Let others open the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def json_line(result: Mapping[str, Any]) -> bytes:
    """Return a result as a line.

    Raises:
        ValueError: it is no JSON, or has no string as its ``id``.
    """
    if not isinstance(result.get("id"), str):
        raise ValueError(f"a result needs a string as its id, but has {result.get('id')!r}")
    try:
        return json.dumps(result, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"the result of {result['id']!r} is no JSON: {error}") from None


def read_json_lines(path: str | Path) -> Iterator[dict[str, Any]]:
    """Read results one by one; a last line without an end is passed over.

    Args:
        path: the file.

    Raises:
        ValueError: a line is no JSON object with an ``id``, or an id is there twice.
    """
    seen: dict[str, int] = {}
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            result = _parsed(line, f"line {number} of {path}")
            first = seen.setdefault(result["id"], number)
            if first != number:
                raise ValueError(
                    f"line {number} of {path} is a second result of {result['id']!r}; the first is "
                    f"on line {first}"
                )
            yield result


def merge_json_lines(paths: Iterable[str | Path], target: str | Path) -> int:
    """Write the results of several files into one, as those of the shards of a run.

    Args:
        paths: the files. A result that two of them hold in the same words is taken once.
        target: the file to write; it gets its name when all is in it.

    Returns:
        How many results there are.

    Raises:
        ValueError: two files hold different results of one id, or a file is damaged.
    """
    merged: dict[str, bytes] = {}
    for path in paths:
        for result in read_json_lines(path):
            line = json_line(result)
            if merged.setdefault(result["id"], line) != line:
                raise ValueError(f"{path} holds another result of {result['id']!r} than the others")
    write_bytes(Path(target), b"".join(merged.values()))
    return len(merged)


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        result = json.loads(line)
    except ValueError:
        result = None
    if not isinstance(result, dict) or not isinstance(result.get("id"), str):
        raise ValueError(f"{where} is no JSON object with an id: the file is damaged")
    return result


def _whole(path: Path, block: int = 2**16) -> int:
    """Return the length of a file up to the end of its last whole line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - block)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def _lock(descriptor: int, path: Path) -> None:
    """Keep others out until the file is closed, where the file system can."""
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(
            f"another process is writing {path}; wait for it, or name another file"
        ) from None
    except OSError:  # some network file systems have no locks
        return


def _sync_folder(folder: Path) -> None:
    """See to it that a new file's name outlives a crash of the machine."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
