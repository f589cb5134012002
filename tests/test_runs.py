"""The loop and its folder: it goes down, it resumes exactly, it says what is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adjointdpm.runs import OptimizeConfig, optimize, run_folder
from adjointdpm.variables.latent import project_to_typical


def problem():
    torch.manual_seed(0)
    variable = torch.randn(4, requires_grad=True)

    def loss(generator):
        # Random in two ways: from the loop's generator and from torch's own state, as dropout is.
        jitter = 0.1 * torch.randn(4, generator=generator) + 0.1 * torch.randn(4)
        return (variable - 1 + jitter).square().sum()

    return variable, loss


def settings(tmp_path, **changes):
    return OptimizeConfig(
        **{"max_train_steps": 12, "output_dir": tmp_path, "progress_bar": False, **changes}
    )


def test_loss_goes_down(tmp_path):
    variable, loss = problem()
    seen = []
    history = optimize(
        {"v": variable}, loss, settings(tmp_path, max_train_steps=60),
        on_step=lambda step, value: seen.append((step, value)),
    )  # fmt: skip
    assert history.losses[-1] < 0.5 * history.losses[0]
    assert len(history) == len(history.seconds) == 60
    assert seen[-1] == (60, history.losses[-1])


@pytest.mark.parametrize("resume", ["latest", "checkpoint-5"])
def test_resumed_run_is_the_same_bit_for_bit(tmp_path, resume):
    variable, loss = problem()
    whole = optimize({"v": variable}, loss, settings(tmp_path / "whole"))

    first, loss = problem()
    optimize(
        {"v": first}, loss, settings(tmp_path, max_train_steps=10, checkpointing_steps=5)
    )  # fmt: skip
    second, loss = problem()
    torch.manual_seed(123)
    with torch.no_grad():
        second.zero_()
    where = resume if resume == "latest" else tmp_path / resume
    history = optimize({"v": second}, loss, settings(tmp_path, resume_from_checkpoint=where))
    assert torch.equal(second, variable)
    assert history.losses == whole.losses


def test_nothing_to_resume_from_is_a_fresh_start(tmp_path):
    variable, loss = problem()
    config = settings(tmp_path, resume_from_checkpoint="latest")
    assert len(optimize({"v": variable}, loss, config)) == 12


def test_projection_holds_after_every_step(tmp_path):
    noise = project_to_typical(torch.randn(2, 4, 3, 3)).requires_grad_()
    radii = []

    def loss(generator):
        radii.append(noise.detach().flatten(1).norm(dim=1))
        return -noise.sum()

    optimize(
        {"noise": noise}, loss, settings(tmp_path),
        project=lambda: noise.copy_(project_to_typical(noise)),
    )  # fmt: skip
    torch.testing.assert_close(torch.stack(radii), torch.full((12, 2), 6.0))


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="learning_rate must be positive"):
        OptimizeConfig(learning_rate=0)
    with pytest.raises(ValueError, match="lr_scheduler"):
        OptimizeConfig(lr_scheduler="linear")
    with pytest.raises(ValueError, match="max_train_steps"):
        OptimizeConfig(max_train_steps=0)
    with pytest.raises(ValueError, match="set output_dir"):
        OptimizeConfig(checkpointing_steps=2)
    with pytest.raises(FileNotFoundError, match="is no checkpoint"):
        optimize(
            {"x": torch.zeros(2, requires_grad=True)}, None,
            OptimizeConfig(resume_from_checkpoint=tmp_path),
        )  # fmt: skip
    with pytest.raises(ValueError, match="x cannot be optimised"):
        optimize({"x": torch.zeros(2)}, None, OptimizeConfig())
    x = torch.zeros(2, requires_grad=True)
    with pytest.raises(FloatingPointError, match="at step 1"):
        optimize({"x": x}, lambda g: (x / 0).sum(), settings(tmp_path))


def test_checkpoint_of_another_run(tmp_path):
    variable, loss = problem()
    optimize({"v": variable}, loss, settings(tmp_path, max_train_steps=2, checkpointing_steps=2))
    other = torch.zeros(3, requires_grad=True)
    with pytest.raises(ValueError, match="checkpoint of another run"):
        optimize({"w": other}, loss, settings(tmp_path, resume_from_checkpoint="latest"))


def test_a_quadratic_is_solved(tmp_path):
    """Nothing here knows of diffusion: the minimum of (x - b)' A (x - b) is b."""
    matrix, b = torch.tensor([[2.0, 0.5], [0.5, 1.0]]), torch.tensor([1.0, -2.0])
    x = torch.zeros(2, requires_grad=True)
    config = settings(tmp_path, max_train_steps=300, learning_rate=0.1, lr_scheduler="cosine")
    optimize({"x": x}, lambda generator: (x - b) @ matrix @ (x - b), config)
    torch.testing.assert_close(x.detach(), b, rtol=0, atol=1e-4)


def test_runs_import_nothing_of_diffusion():
    code = "import sys, adjointdpm.runs.loop; print({'diffusers', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def spoilt_after(steps, kind):
    x = torch.ones(2, requires_grad=True)
    calls = []

    def loss(generator):
        calls.append(1)
        total = (x - 3).square().sum()
        if len(calls) <= steps:
            return total
        if kind == "gradient":  # the loss is finite, its gradient is not
            return total + (x - x.detach()).square().sum().sqrt()
        return total / 0

    return x, loss


@pytest.mark.parametrize("kind", ["gradient", "loss"])
def test_no_update_is_made_with_what_is_not_finite(tmp_path, kind):
    x, loss = spoilt_after(4, kind)
    seen = []
    config = settings(tmp_path, checkpointing_steps=2)
    with pytest.raises(FloatingPointError, match="at step 5; no update") as error:
        optimize({"x": x}, loss, config, on_step=lambda *_: seen.append(x.detach().clone()))
    assert str(tmp_path / "checkpoint-4") in str(error.value)
    assert "learning_rate (now 0.05)" in str(error.value)
    assert torch.equal(x, seen[-1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-4"]


def test_a_variable_that_the_loss_does_not_use(tmp_path):
    x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="does not depend on y"):
        optimize({"x": x, "y": y}, lambda generator: x.sum(), settings(tmp_path))


def damage(checkpoint):
    path = checkpoint / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    variable, loss = problem()
    optimize({"v": variable}, loss, settings(tmp_path / "whole"))
    first, loss = problem()
    optimize({"v": first}, loss, settings(tmp_path, max_train_steps=10, checkpointing_steps=5))
    damage(tmp_path / "checkpoint-10")
    second, loss = problem()
    config = settings(tmp_path, resume_from_checkpoint="latest", checkpointing_steps=5)
    with pytest.warns(UserWarning, match=r"from checkpoint-5: .*checkpoint-10.* not a whole"):
        optimize({"v": second}, loss, config)
    assert torch.equal(second, variable)

    for number in (5, 10):
        damage(tmp_path / f"checkpoint-{number}")
    with pytest.raises(ValueError, match=r"no checkpoint .* can be read"):
        optimize({"v": second}, loss, config)
    config = settings(tmp_path, resume_from_checkpoint=tmp_path / "checkpoint-5")
    with pytest.raises(ValueError, match="not a whole"):
        optimize({"v": second}, loss, config)


def test_checkpoints_of_two_runs_are_not_mixed(tmp_path):
    variable, loss = problem()
    config = settings(tmp_path, checkpointing_steps=4)
    optimize({"v": variable}, loss, config)
    with pytest.raises(FileExistsError, match="already holds checkpoint-12"):
        optimize({"v": variable}, loss, config)
    early = tmp_path / "checkpoint-4"
    with pytest.raises(FileExistsError, match="already holds checkpoint-12"):
        optimize({"v": variable}, loss, settings(
            tmp_path, checkpointing_steps=4, resume_from_checkpoint=early))  # fmt: skip


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
def test_seeds_that_no_generator_takes(seed):
    with pytest.raises(ValueError, match="seed must be between 0 and"):
        OptimizeConfig(seed=seed)


# The folder


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
