"""The command: its two lines of help, its errors, and the whole demo on a tiny model."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import MISSING, fields

import pytest
import torch
from tiny_pipeline import write_assets

import adjointdpm as adp
from adjointdpm.assets import ASSETS_VARIABLE
from adjointdpm.cli.arguments import parse
from adjointdpm.cli.commands import COMMANDS, Command
from adjointdpm.cli.main import main
from adjointdpm.jobs.embed import EmbedConfig
from adjointdpm.runs import RunConfig, optimize, run_folder


@pytest.fixture(scope="module")
def tiny_assets(tmp_path_factory):
    return write_assets(tmp_path_factory.mktemp("tiny") / "assets")


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"adjointdpm {adp.__version__}"


def test_no_command_prints_help(capsys):
    assert main([]) == 2
    assert "demo" in capsys.readouterr().out


def test_module_runs():
    done = subprocess.run(
        [sys.executable, "-m", "adjointdpm", "--version"], capture_output=True, text=True
    )
    assert done.stdout.startswith("adjointdpm ")


@pytest.mark.parametrize("method", ["exact", "continuous"])
def test_certify(capsys, tmp_path, monkeypatch, tiny_assets, method):
    monkeypatch.setenv(ASSETS_VARIABLE, str(tiny_assets))
    flags = ["--method", method, "--json", str(tmp_path / "c.json")]
    status = main(["certify", *flags, "--num_inference_steps", "2", "--num_directions", "1"])
    printed = capsys.readouterr()
    assert "encoder_hidden_states" in printed.out
    assert "the gradient by plain autograd ..." in printed.err
    found = json.loads((tmp_path / "c.json").read_text())
    error = max(target["relative_error"] for target in found["targets"])
    assert (error < 1e-10) == (method == "exact")
    assert status == (0 if error <= 0.1 else 1)
    assert found["passed"] == (status == 0)
    assert f"verdict: {found['verdict']}" in printed.out


def test_certify_by_step(capsys, tmp_path, monkeypatch, tiny_assets):
    monkeypatch.setenv(ASSETS_VARIABLE, str(tiny_assets))
    flags = ["--num_inference_steps", "3", "--json", str(tmp_path / "c.json")]
    flags += ["--num_directions", "1"]
    flags += ["--method", "resolved", "--by_step", "--derivatives", "forward"]
    assert main(["certify", *flags, "--max_error", "1e9"]) == 0
    printed = capsys.readouterr().out
    assert "adjoint off by" in printed
    assert "misses the start of the run by" in printed
    found = json.loads((tmp_path / "c.json").read_text())
    assert len(found["by_step"]) == 3
    assert found["derivatives"] == "forward"


def test_certify_needs_its_numbers(capsys):
    assert main(["certify", "--method", "exact", "--num_steps", "5"]) == 1
    assert "exact takes no num_steps" in capsys.readouterr().err
    assert main(["certify", "--pipeline", "folder", "--target", "car"]) == 1
    assert "leave target out" in capsys.readouterr().err
    assert main(["certify", "--num_directions", "0"]) == 1
    assert "at least 1" in capsys.readouterr().err
    assert main(["certify", "--method", "coarse"]) == 1
    assert "needs num_steps" in capsys.readouterr().err


def test_error_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv(ASSETS_VARIABLE, str(tmp_path))
    assert main(["demo", "--output_dir", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "is not the embedded model" in message
    monkeypatch.setenv("ADJOINTDPM_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        main(["demo", "--output_dir", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["demo", "--sed", "4"], "did you mean seed?"),
        (["demo", "--guide_targets", "taxi"], "did you mean guide_target,"),
        (["demo", "--see", "4"], "unrecognized arguments: --see 4"),  # nothing is abbreviated
        (["demo", "--seed", "x"], 'key "seed": Expected a'),
        (["certify", "--method", "magic"], "Literal['exact', 'backprop'"),
        (["certify", "extra"], "unrecognized arguments: extra"),
        (["--sed"], "unrecognized arguments: --sed"),
        (["demos"], "invalid choice: 'demos'"),
    ],
)
def test_what_is_typed_wrong_is_named(capsys, typed, message):
    with pytest.raises(SystemExit) as stop:
        main(typed)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_settings_from_a_file(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("seed: 5\nguidance_scale: 3\nmemory_budget: null\n")
    typed = ["--config", str(file), "--seed", "6", "--progress_bar", "false"]
    config = parse("adjointdpm embed", "A word.", EmbedConfig, typed)
    assert config == EmbedConfig(seed=6, guidance_scale=3.0, memory_budget=None, progress_bar=False)
    for text, message in (("sed: 5", "did you mean seed?"), ("seed: five", "Got value: five")):
        file.write_text(text)
        with pytest.raises(SystemExit):
            main(["embed", "--config", str(file)])
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_every_setting_is_an_argument_with_help(command, capsys):
    """The dataclass is the one place: its defaults are the command's, its docstring the help."""
    config = command.config()
    kinds = {field.name: field.type for field in fields(config) if field.default is MISSING}
    needed = {name: ["x"] if "list" in kind else "x" for name, kind in kinds.items()}
    typed = [f"--{name}={value}" for name, value in needed.items()]
    assert parse("x", "x", config, typed) == config(**needed)
    with pytest.raises(SystemExit):
        parse("x", "x", config, ["--help"])
    shown = capsys.readouterr().out
    assert "Unvalidated" not in shown, "bases in another order: types are looked up along the first"
    for field in fields(config):
        assert re.search(rf"--{field.name} [^\n]*\n? +\S", shown), field.name
    switches = [f"--{field.name}" for field in fields(config) if field.type == "bool"]
    assert parse("x", "x", config, [*typed, *switches])


def test_a_stopped_run_says_how_to_go_on(tmp_path, monkeypatch, capfd):
    """As a job with a loop of its own does: status 130, and the second call does the rest."""
    x = torch.zeros(2, requires_grad=True)
    calls = []

    def loss(generator):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return (x - 1).square().sum()

    def run(config, command_line):
        with run_folder(config.output_dir, "fit", config=config):
            print(len(optimize({"x": x}, loss, config)), "steps")
        return 0

    monkeypatch.setitem(COMMANDS, "fit", Command("fit", lambda: RunConfig, run))
    typed = ["fit", "--output_dir", str(tmp_path / "run"), "--progress_bar", "false"]
    assert main(typed) == 130
    said = capfd.readouterr().err
    assert "adjointdpm: stopped after step 3, and saved" in said
    assert main(typed) == 1
    assert "holds an earlier run" in capfd.readouterr().err
    assert main([*typed, "--resume_from_checkpoint", "latest"]) == 0
    assert capfd.readouterr().out == "30 steps\n"
    assert len(calls) == 30
    assert main([*typed, "--resume_from_checkpoint", "latest", "--seed", "4"]) == 1
    assert "seed was 0 and is 4" in capfd.readouterr().err
