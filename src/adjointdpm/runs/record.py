"""What a folder says of its run: the job, the settings, the versions."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..storage import write_text
from ..version import __version__
from .config import LATEST, FolderConfig
from .machine import versions

MARKER = "run.json"
"""Says that a folder belongs to a run, and of which job."""
SETTINGS = "config.json"
"""The settings once more, as ``--config`` reads them back."""


def write_record(folder: Path, job: str, config: FolderConfig | None) -> None:
    """Write whose a folder is.

    Args:
        folder: that of the run.
        job: its name.
        config: its settings, if it can be resumed.
    """
    record: dict[str, Any] = {"job": job, "adjointdpm": __version__}
    if config is not None:
        record |= {"versions": versions(), "config": settings(config)}
    # In one file, so that a run killed here has written all that is looked at, or nothing.
    write_text(folder / MARKER, _text(record))
    if config is not None:
        write_text(folder / SETTINGS, _text(settings(config)))


def settings(config: FolderConfig) -> dict[str, Any]:
    """Return settings as JSON holds them."""
    return json.loads(json.dumps(asdict(config), default=str))


def is_own_run(folder: Path, job: str, config: FolderConfig | None) -> bool:
    """Return whether a folder holds the run that the settings go on with.

    Args:
        folder: where the run is to write.
        job: its name.
        config: its settings.

    Raises:
        FileExistsError: it holds a run, of another job or without a record of its settings.
        ValueError: it is a run with other settings, which are named.
    """
    if config is None or not (folder / MARKER).is_file() or not _goes_on_in(folder, config):
        return False
    record = json.loads((folder / MARKER).read_text())
    if record.get("job") != job or "config" not in record:
        raise FileExistsError(
            f"output_dir {folder} holds a run of the job {record.get('job')!r} that {job!r} cannot "
            "go on with; name another folder"
        )
    _check_settings(folder, record["config"], config)
    earlier, now = record.get("versions", {}), versions()
    changed = [f"{name} {v} -> {now[name]}" for name, v in earlier.items() if v != now.get(name)]
    if changed:
        warnings.warn(
            f"the run in {folder} began with other versions ({', '.join(changed)}): it goes on, "
            "but perhaps not with the same numbers to the last bit",
            stacklevel=5,
        )
    return True


def _goes_on_in(folder: Path, config: FolderConfig) -> bool:
    """Return whether the checkpoint to go on from lies in the folder."""
    wanted = config.resume_from_checkpoint
    return wanted == LATEST or (
        wanted is not None and Path(wanted).resolve().parent == folder.resolve()
    )


def _check_settings(folder: Path, earlier: dict[str, Any], config: FolderConfig) -> None:
    now = settings(config)
    changed = [
        f"{name} was {earlier[name]!r} and is {now[name]!r}"
        for name in now
        if name in earlier and name not in config.MAY_CHANGE and earlier[name] != now[name]
    ]
    if changed:
        raise ValueError(
            f"the run in {folder} cannot go on with other settings: {'; '.join(changed)}. Repeat "
            f"those of {folder / SETTINGS}, or name another output_dir"
        )


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
