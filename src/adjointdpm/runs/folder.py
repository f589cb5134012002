"""The folder that a run writes into: its own, checked before the work begins."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from ..storage import remove_partial
from .config import FolderConfig
from .processes import is_main_process, join_processes, wait_for_processes
from .record import MARKER, SETTINGS, is_own_run, write_record
from .trackers import check_tracker

ROOM = 64 * 2**20
"""Bytes that must be free where nothing else is known of what a run will write."""


@contextmanager
def run_folder(
    path: str | Path,
    job: str,
    *,
    overwrite: bool = False,
    room: int = ROOM,
    config: FolderConfig | None = None,
) -> Iterator[Path]:
    """Give a run a folder of its own for the length of the block.

    A folder that holds anything is refused, so that the files of two runs are never mixed; but the
    run's own is opened again where the settings say ``resume_from_checkpoint``. If the block ends
    before anything was written, as when it is interrupted, no folder is left behind.

    Where several processes make the run, all but the main one get a folder that is thrown away.

    Args:
        path: the folder; it is made, with those above it.
        job: the name of the job.
        overwrite: empty the folder first if it is that of an earlier run (of whatever job). Others
            are refused all the same. ``config`` may say so too.
        room: bytes that must be free on the disk.
        config: the settings, which are written into the folder. What they say of a tracker is
            checked too.

    Raises:
        FileExistsError: the folder is not empty, and may not be emptied; or a run that is alive
            writes into it.
        NotADirectoryError: it is a file, or lies within one.
        PermissionError: it cannot be written to.
        OSError: the disk has too little room.
        ValueError: the run to go on with has other settings.
        ImportError: the tracker is not installed.
    """
    join_processes()
    if is_main_process():
        with _own_folder(Path(path), job, overwrite, room, config) as folder:
            wait_for_processes()
            yield folder
    else:
        wait_for_processes()
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)


@contextmanager
def _own_folder(
    folder: Path, job: str, overwrite: bool, room: int, config: FolderConfig | None
) -> Iterator[Path]:
    if config is not None:
        overwrite = overwrite or config.overwrite_output_dir
        if (tracker := getattr(config, "report_to", None)) is not None:
            check_tracker(tracker)
    _check_is_folder(folder)
    made = [part for part in (folder, *folder.parents) if not part.exists()]
    with _held(folder):
        try:
            goes_on = is_own_run(folder, job, config)
            if not goes_on:
                _check_free(folder, overwrite, can_go_on=config is not None)
            _check_room(folder, room)
        except BaseException:
            if made:
                _remove_unused(folder, made)
            raise
        if (folder / MARKER).is_file():
            made = [folder]  # as good as made: it is emptied
        try:
            if goes_on:
                remove_partial(folder)
            else:
                _empty(folder)
            write_record(folder, job, config)
            yield folder
        finally:
            _remove_unused(folder, made)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Make a folder, and hold it against other runs to the end of the block, or of the process.

    Raises:
        FileExistsError: a run that is alive holds it.
        OSError: it cannot be made or written to.
    """
    _make(folder)
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not _lock(handle) or not _is_still(folder, handle):
            raise FileExistsError(
                f"another run is writing into output_dir {folder} now: wait for its end, or name "
                "another folder"
            )
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # a process that was forked here has the handle too
        os.close(handle)


def _lock(handle: int) -> bool:
    """Return whether nobody else holds a folder."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network's file system that holds nothing
        pass
    return True


def _is_still(folder: Path, handle: int) -> bool:
    """Return whether a folder is the one that was opened: its run may just have removed it."""
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False


def _check_is_folder(folder: Path) -> None:
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise NotADirectoryError(f"output_dir {folder} cannot be made: {part} is a file")


def _check_free(folder: Path, overwrite: bool, can_go_on: bool) -> None:
    """Raise if a folder holds anything that must not go."""
    if not folder.is_dir():
        return
    # A run that was killed first of all left a record that it had not finished.
    if all(entry.name.startswith(f".{MARKER}.") for entry in folder.iterdir()):
        return
    if not (folder / MARKER).is_file():
        raise FileExistsError(
            f"output_dir {folder} holds files that no run wrote; name a folder that is new or empty"
        )
    if not overwrite:
        resume = ", or resume_from_checkpoint latest to go on with it" if can_go_on else ""
        raise FileExistsError(
            f"output_dir {folder} holds an earlier run; name another folder, or set "
            f"overwrite_output_dir to remove what is in it{resume}"
        )
    if Path.cwd().is_relative_to(folder.resolve()) or Path.home().is_relative_to(folder.resolve()):
        raise FileExistsError(f"output_dir {folder} is not emptied: you are working in it")


def _make(folder: Path) -> None:
    """Make a folder, or raise if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except PermissionError:
        raise PermissionError(f"output_dir {folder} cannot be written to; name another") from None
    except OSError as error:
        raise OSError(f"output_dir {folder} cannot be written to: {error.strerror}") from None


def _check_room(folder: Path, room: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < room:
        raise OSError(
            f"output_dir {folder} has room for {free / 2**20:.0f} MiB, but up to "
            f"{room / 2**20:.0f} MiB will be written; make room, or name a folder on another disk"
        )


def _empty(folder: Path) -> None:
    """Remove an earlier run; what says whose the folder is goes last."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == MARKER):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _remove_unused(folder: Path, made: list[Path]) -> None:
    """Remove the folders that were made for a run that has written nothing."""
    if not folder.is_dir() or {e.name for e in folder.iterdir()} - {MARKER, SETTINGS}:
        return
    for name in (SETTINGS, MARKER):
        (folder / name).unlink(missing_ok=True)
    for part in made:
        if part.is_dir() and not part.is_symlink():
            os.rmdir(part)
