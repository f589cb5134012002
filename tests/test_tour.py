"""The demo, on a tiny model: a folder and a report for each job, and a page above them."""

import json
import re
import shlex
from pathlib import Path

import pytest
from tiny_pipeline import write_assets

from adjointdpm.assets import ASSETS_VARIABLE
from adjointdpm.cli.main import main
from adjointdpm.runs import run_folder
from adjointdpm.storage import read_json_lines
from adjointdpm.tour import TourConfig, run

JOBS = ["guide", "embed", "stylize", "audit"]
TARGETS = ["--guide_target", "rocket", "--embed_target", "cactus"]


@pytest.fixture(autouse=True, scope="module")
def tiny_assets(tmp_path_factory):
    assets = write_assets(tmp_path_factory.mktemp("tiny") / "assets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ASSETS_VARIABLE, str(assets))
        yield assets


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tour") / "out"
    typed = ["demo", "--output_dir", str(folder), *TARGETS, "--max_train_steps", "2"]
    assert main([*typed, "--device", "cpu", "--progress_bar", "false"]) == 0
    return folder


def test_every_job_leaves_its_report(tour):
    numbers = json.loads((tour / "numbers.json").read_text(encoding="utf-8"))
    assert list(numbers["jobs"]) == JOBS
    for name, job in numbers["jobs"].items():
        assert (tour / name / "report.html").is_file()
        assert job["command"].startswith(f"adjointdpm {name} ")
        assert job["facts"]
        assert 0 < job["seconds"] < numbers["seconds"]
    assert numbers["peak_memory_bytes"] > 0
    assert (tour / "pictures.png").stat().st_size > 0
    audited = list(read_json_lines(tour / "audit" / "results.jsonl"))
    assert not [result["error"] for result in audited if "error" in result]


def test_the_page_opens_offline_and_says_what_it_shows(tour):
    page = (tour / "report.html").read_text(encoding="utf-8")
    assert "adjointdpm demo --output_dir" in page
    for target in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert target.startswith("data:") or (tour / target).is_file(), target
    texts = re.findall(r'<img [^>]*alt="([^"]*)"', page)
    assert len(texts) == len(set(texts)) == page.count("<img")
    assert len(texts) >= 2 * 4 * 3  # and some of the audit, if it fooled any
    assert "Is the gradient right?" in page


def test_a_job_alone_does_the_same(tour, tmp_path):
    """The line that is printed for each job is what the tour did."""
    numbers = json.loads((tour / "numbers.json").read_text(encoding="utf-8"))
    command = numbers["jobs"]["guide"]["command"].replace(str(tour), str(tmp_path))
    assert main(shlex.split(command)[1:]) == 0
    losses = [
        json.loads((folder / "guide" / "numbers.json").read_text())["losses"]
        for folder in (tour, tmp_path)
    ]
    assert losses[0] == losses[1]


def test_a_second_tour_is_not_mixed_with_the_first(tmp_path, capsys):
    out = tmp_path / "out"
    with run_folder(out, "demo") as folder:
        (folder / "stale.png").touch()
    typed = ["demo", "--output_dir", str(out), *TARGETS]
    assert main(typed) == 1
    assert "holds an earlier run; name another folder, or set overwrite" in capsys.readouterr().err
    assert (out / "stale.png").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "abacus"], "device 'abacus' is not known"),
        (["--max_train_steps", "0"], "max_train_steps must be at least 1"),
        (["--guide_target", "rockett"], "did you mean rocket"),
        (["--seed", str(2**70)], "seed must be between 0 and"),
        (["--output_dir", "/dev/null/x"], "/dev/null is a file"),
        (["--output_dir", "/dev/null/x", "--device", "abacus"], "device 'abacus'"),
    ],
)
def test_wrong_settings_are_named(capsys, tmp_path, flags, message):
    """And nothing is written or removed before they are."""
    earlier = tmp_path / "earlier"
    with run_folder(earlier, "demo") as folder:
        (folder / "report.html").write_text("x")
    typed = ["--output_dir", str(earlier), "--overwrite_output_dir", *TARGETS, *flags]
    assert main(["demo", *typed]) == 1
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in earlier.iterdir()) == ["report.html", "run.json"]


def test_an_interrupted_demo_leaves_no_empty_folder(tmp_path, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("adjointdpm.tour.run.run_guide", interrupted)
    assert main(["demo", "--output_dir", str(tmp_path / "a" / "b"), *TARGETS]) == 130
    assert "stopped" in capsys.readouterr().err
    assert not list(Path(tmp_path).iterdir())


def test_without_peft_the_tour_leaves_stylize_out(monkeypatch):
    monkeypatch.setattr(run, "find_spec", {}.get)
    monkeypatch.setattr(run, "_stop", lambda name, *_, **__: name)
    with pytest.warns(UserWarning, match=r"leaves stylize out.*adjointdpm\[lora\]"):
        assert list(run._visit(TourConfig())) == [job for job in JOBS if job != "stylize"]
