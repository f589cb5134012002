"""The folder of a run: its own, checked before the work begins, and opened again to go on."""

import json
import multiprocessing
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from adjointdpm.cli.arguments import parse
from adjointdpm.runs import RunConfig, run_folder


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


# Going on


def job(folder, **changes):
    return RunConfig(**{"output_dir": folder, "progress_bar": False, "seed": 3, **changes})


def opened(config, name="test"):
    return run_folder(config.output_dir, name, config=config)


@pytest.fixture
def started(tmp_path):
    """Return the folder of a run that was killed while it wrote."""
    with opened(job(tmp_path / "run")) as folder:
        (folder / "x.txt").write_text("x")
        (folder / "part" / ".y.txt.k1ll3d_8").mkdir(parents=True)
        (folder / "part" / ".y.txt.k1ll3d_8" / "y.txt").write_text("y")
    return folder


def test_a_run_goes_on_in_its_folder(started):
    with opened(job(started, resume_from_checkpoint="latest", max_train_steps=99)) as folder:
        assert contents(folder) == ["config.json", "part", "run.json", "x.txt"]
    assert json.loads((started / "config.json").read_text())["max_train_steps"] == 99
    record = json.loads((started / "run.json").read_text())
    assert (record["job"], record["config"]["seed"]) == ("test", 3)
    assert set(record["versions"]) >= {"adjointdpm", "torch", "diffusers"}
    with (
        pytest.raises(FileExistsError, match="or resume_from_checkpoint latest to go on"),
        opened(job(started)),
    ):
        pass
    with opened(job(started, overwrite_output_dir=True)) as folder:
        assert contents(folder) == ["config.json", "run.json"]


def test_a_run_goes_on_wherever_its_record_was_cut_off(tmp_path):
    """`write_record` writes two files, each beside its place."""
    (tmp_path / "a" / ".run.json.k1ll3d_8").mkdir(parents=True)
    with opened(job(tmp_path / "a")) as folder:
        assert contents(folder) == ["config.json", "run.json"]
        (folder / "x.txt").write_text("x")
        (folder / "config.json").unlink()
    with opened(job(tmp_path / "a", resume_from_checkpoint="latest")) as folder:
        assert contents(folder) == ["config.json", "run.json", "x.txt"]


def test_a_run_begins_where_there_is_none_to_go_on_with(tmp_path):
    with opened(job(tmp_path / "new", resume_from_checkpoint="latest")) as folder:
        (folder / "x.txt").write_text("x")
    assert contents(tmp_path / "new") == ["config.json", "run.json", "x.txt"]
    elsewhere = tmp_path / "new" / "checkpoint-3"
    with opened(job(tmp_path / "other", resume_from_checkpoint=elsewhere)) as folder:
        assert contents(folder) == ["config.json", "run.json"]


@pytest.mark.parametrize("where", ["latest", "checkpoint-1"])
def test_a_run_does_not_go_on_with_other_settings(started, where):
    where = where if where == "latest" else started / where
    before = contents(started)
    config = job(started, resume_from_checkpoint=where, seed=4, learning_rate=1.0)
    message = r"seed was 3 and is 4; learning_rate was 0\.05 and is 1\.0"
    with pytest.raises(ValueError, match=message), opened(config):
        pass
    with (
        pytest.raises(FileExistsError, match="a run of the job 'test'"),
        opened(job(started, resume_from_checkpoint=where), "other"),
    ):
        pass
    assert contents(started) == before


def test_other_versions_are_told(started):
    record = json.loads((started / "run.json").read_text())
    record["versions"]["torch"] = "1.0"
    (started / "run.json").write_text(json.dumps(record))
    with (
        pytest.warns(UserWarning, match=r"torch 1\.0 -> "),
        opened(job(started, resume_from_checkpoint="latest")),
    ):
        pass


def test_what_contradicts_going_on():
    with pytest.raises(ValueError, match="would remove the checkpoints"):
        RunConfig(overwrite_output_dir=True, resume_from_checkpoint="latest")


@dataclass(frozen=True)
class JobConfig(RunConfig):
    """Settings of a job.

    Args:
        prompt: what is asked for.
        sizes: several numbers.
    """

    prompt: str = "1e-3"
    sizes: tuple[int, ...] = (1, 2)


def test_settings_are_arguments_and_are_read_back(tmp_path, capsys):
    """The base's settings are the job's, with their help, and what was written is `--config`."""
    typed = ["--learning_rate", "1e-5", "--checkpointing_steps", "50", "--report_to", "tensorboard"]
    config = parse("x", "x", JobConfig, [*typed, "--output_dir", str(tmp_path / "run")])
    assert (config.learning_rate, config.checkpointing_steps) == (1e-5, 50)
    with opened(config) as folder:
        assert parse("x", "x", JobConfig, ["--config", str(folder / "config.json")]) == config
    file = tmp_path / "run.yaml"
    file.write_text("learning_rte: 1e-2\n")
    with pytest.raises(SystemExit):
        parse("x", "x", JobConfig, ["--config", str(file)])
    assert "did you mean learning_rate?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse("x", "x", JobConfig, ["--help"])
    shown = capsys.readouterr().out
    for field in fields(JobConfig):
        assert re.search(rf"--{field.name} [^\n]*\n? +\S", shown), field.name


def test_two_runs_never_write_into_one_folder_at_a_time(tmp_path):
    where = tmp_path / "run"
    with run_folder(where, "test") as folder:
        for _ in range(2):  # before the first has written anything, and after
            with (
                pytest.raises(FileExistsError, match="another run is writing into"),
                run_folder(where, "test", overwrite=True),
            ):
                pass
            assert "run.json" in contents(where)
            (folder / "x.txt").write_text("x")
    assert contents(where) == ["run.json", "x.txt"]
    with run_folder(where, "test", overwrite=True):
        assert contents(where) == ["run.json"]


def _hold(folder, pipe):
    with run_folder(folder, "test"):
        pipe.send("held")
        pipe.recv()


def test_a_run_that_is_killed_holds_its_folder_no_longer(tmp_path):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(tmp_path / "run", theirs))
    process.start()
    assert ours.recv() == "held"
    with (
        pytest.raises(FileExistsError, match="another run is writing into"),
        run_folder(tmp_path / "run", "test", overwrite=True, room=2**80),
    ):
        pass
    assert contents(tmp_path / "run") == ["run.json"]
    process.kill()
    process.join()
    with run_folder(tmp_path / "run", "test", overwrite=True):
        assert contents(tmp_path / "run") == ["run.json"]


def test_a_process_that_was_forked_in_a_run_does_not_hold_its_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    with run_folder(tmp_path, "test") as folder:
        child = context.Process(target=theirs.recv)
        child.start()
        (folder / "x.txt").write_text("x")
    with run_folder(tmp_path, "test", overwrite=True):
        assert contents(tmp_path) == ["run.json"]
    ours.send("end")
    child.join()
