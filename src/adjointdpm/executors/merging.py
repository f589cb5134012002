"""The folders of the shards of a run, put into one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..storage import merge_json_lines, replacing_folder

RECORDS = ("run.json", "config.json")
"""What says whose a folder is; that of the first shard is kept."""


@dataclass(frozen=True)
class MergeConfig:
    """Put the folders of the shards of a run into one.

    The job goes on there with ``resume_from_checkpoint latest`` and one shard: it works on what is
    missing, if anything, and writes the report.

    Args:
        folders: those of the shards.
        output_dir: the folder to make.
    """

    folders: list[str]
    output_dir: str | Path


def merge_folders(folders: Sequence[str | Path], output_dir: str | Path) -> int:
    """Put the folders of shards into a new one: their results and the files in their subfolders.

    Args:
        folders: those of the shards.
        output_dir: the folder to make; it gets its name when all is in it.

    Returns:
        How many results there are.

    Raises:
        FileExistsError: the folder is there already.
        FileNotFoundError: a folder holds no results.
        ValueError: two shards have different results of one item, or a file is damaged.
    """
    target, shards = Path(output_dir), [Path(folder) for folder in folders]
    if target.exists():
        raise FileExistsError(f"output_dir {target} is there already; name a new folder")
    for shard in shards:
        if not any(shard.glob("*.jsonl")):
            raise FileNotFoundError(f"{shard} holds no results (*.jsonl): it is no shard of a run")
    names = sorted({path.name for shard in shards for path in shard.glob("*.jsonl")})
    with replacing_folder(target) as partial:
        found = [
            merge_json_lines([s / name for s in shards if (s / name).is_file()], partial / name)
            for name in names
        ]
        for shard in shards:
            for folder in [path for path in shard.iterdir() if path.is_dir()]:
                shutil.copytree(folder, partial / folder.name, dirs_exist_ok=True)
        for record in [shards[0] / name for name in RECORDS]:
            if record.is_file():
                shutil.copy2(record, partial)
    return sum(found)
