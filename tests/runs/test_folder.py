"""The folder of a run: its own, checked before the work begins, and opened again to go on."""

import os
from pathlib import Path

import pytest

from adjointdpm.runs import run_folder


def contents(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_run_has_a_folder_of_its_own(tmp_path):
    where = tmp_path / "a" / "b"
    with run_folder(where, "test") as folder:
        assert folder == where
        (folder / "part").mkdir()
        (folder / "part" / "x.txt").write_text("x")
    with pytest.raises(FileExistsError, match="holds an earlier run"), run_folder(where, "test"):
        pass
    assert contents(where) == ["part", "part/x.txt", "run.json"]
    with run_folder(where, "test", overwrite=True) as folder:
        assert contents(where) == ["run.json"]
        (folder / "y.txt").write_text("y")
    assert contents(where) == ["run.json", "y.txt"]


def test_files_of_others_are_never_removed(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    for overwrite in (False, True):
        with (
            pytest.raises(FileExistsError, match="that no run wrote"),
            run_folder(tmp_path, "test", overwrite=overwrite),
        ):
            pass
    assert contents(tmp_path) == ["thesis.txt"]


def test_the_folder_that_one_works_in_is_not_emptied(tmp_path, monkeypatch):
    with run_folder(tmp_path / "run", "test") as folder:
        (folder / "x").mkdir()
    monkeypatch.chdir(tmp_path / "run" / "x")
    with (
        pytest.raises(FileExistsError, match="you are working in it"),
        run_folder(tmp_path / "run", "test", overwrite=True),
    ):
        pass


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path, stop):
    def interrupted(path, names):
        with run_folder(path, "test") as folder:
            for name in names:
                (folder / name).write_text("x")
            raise stop

    with pytest.raises(stop):
        interrupted(tmp_path / "a" / "b", [])
    assert contents(tmp_path) == []
    with pytest.raises(stop):
        interrupted(tmp_path / "a", ["x.txt"])
    assert contents(tmp_path) == ["a", "a/run.json", "a/x.txt"]
    with pytest.raises(stop), run_folder(tmp_path / "a", "test", overwrite=True):
        raise stop
    assert contents(tmp_path) == []


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="is a file"), run_folder(tmp_path / "file/a", "t"):
        pass
    with (
        pytest.raises(OSError, match=r"has room for \d+ MiB"),
        run_folder(tmp_path / "a", "t", room=2**70),
    ):
        pass
    assert contents(tmp_path) == ["file"]


READ_ONLY = Path("/proc/self")


@pytest.mark.skipif(not READ_ONLY.is_dir(), reason="no folder is read-only for everybody")
def test_a_folder_that_is_read_only(tmp_path):
    """Even for the superuser, whom permissions do not stop."""
    with pytest.raises(OSError, match="cannot be written to"), run_folder(READ_ONLY / "a", "test"):
        pass
    if os.geteuid():
        tmp_path.chmod(0o500)
        with (
            pytest.raises(PermissionError, match="cannot be written"),
            run_folder(tmp_path / "a", "t"),
        ):
            pass
