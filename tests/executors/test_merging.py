"""Folders of shards, put into one."""

from __future__ import annotations

from pathlib import Path

import pytest

from adjointdpm.cli import main
from adjointdpm.executors import merge_folders
from adjointdpm.storage import JsonLines, read_json_lines


def shard_folder(folder: Path, *ids: str) -> Path:
    with JsonLines(folder / "results.jsonl") as record:
        for id in ids:
            record.append({"id": id, "picture": f"pictures/{id}.png"})
            (folder / "pictures").mkdir(exist_ok=True)
            (folder / "pictures" / f"{id}.png").write_text(id)
    (folder / "run.json").write_text(folder.name)
    (folder / "report.html").write_text("of one shard")
    return folder


def test_results_and_their_files_come_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [shard_folder(tmp_path / "0", "a", "b"), shard_folder(tmp_path / "1", "c")]
    listed = f"[{', '.join(map(str, folders))}]"
    assert main(["merge", "--folders", listed, "--output_dir", str(tmp_path / "all")]) == 0
    assert "3 results of 2 shards" in capsys.readouterr().out
    results = {r["id"]: r for r in read_json_lines(tmp_path / "all" / "results.jsonl")}
    assert results.keys() == {"a", "b", "c"}
    for id, result in results.items():
        assert (tmp_path / "all" / result["picture"]).read_text() == id
    assert (tmp_path / "all" / "run.json").read_text() == "0"
    assert not (tmp_path / "all" / "report.html").exists()  # the job writes that of all


def test_what_is_no_shard_leaves_no_folder(tmp_path: Path) -> None:
    whole = shard_folder(tmp_path / "0", "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no results"):
        merge_folders([whole, tmp_path / "empty"], tmp_path / "all")
    other = shard_folder(tmp_path / "1", "a")
    (other / "results.jsonl").write_text('{"id": "a", "picture": "another"}\n')
    with pytest.raises(ValueError, match="another result of 'a'"):
        merge_folders([whole, other], tmp_path / "all")
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "empty"}
    with pytest.raises(FileExistsError, match="there already"):
        merge_folders([whole], whole)
