"""Checkpoints: a resumed run is the one that never stopped, and no other."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from quadratics import problem, settings

from adjointdpm.runs import optimize


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


def test_checkpoint_of_another_run(tmp_path):
    variable, loss = problem()
    optimize({"v": variable}, loss, settings(tmp_path, max_train_steps=2, checkpointing_steps=2))
    other = torch.zeros(3, requires_grad=True)
    with pytest.raises(ValueError, match="checkpoint of another run"):
        optimize({"w": other}, loss, settings(tmp_path, resume_from_checkpoint="latest"))


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


def test_old_checkpoints_go(tmp_path):
    variable, loss = problem()
    config = settings(tmp_path, checkpointing_steps=2, checkpoints_total_limit=3)
    optimize({"v": variable}, loss, config)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"checkpoint-8", "checkpoint-10", "checkpoint-12"}


def everything():
    """Return a problem that draws from every generator, under names that could be mixed up."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    variables = {name: torch.ones(3, requires_grad=True) for name in ("loss", "a.loss")}

    def loss(generator):
        drawn = torch.rand((), generator=generator) + torch.rand(())
        drawn = drawn + random.gauss(0, 1) + np.random.normal()
        return sum((v - drawn).square().sum() for v in variables.values())

    return variables, loss


class KilledError(Exception):
    """What ends a run without its being asked."""


@pytest.mark.parametrize("killed_after", [1, 6, 7])
def test_all_that_a_run_depends_on_is_restored(tmp_path, killed_after):
    def config(**changes):
        return settings(
            tmp_path,
            gradient_accumulation_steps=3,
            max_grad_norm=1.0,
            lr_scheduler="cosine",
            lr_warmup_steps=2,
            mixed_precision="fp16",
            **changes,
        )

    def kill(step, value):
        if step == killed_after + 1:
            raise KilledError

    variables, loss = everything()
    whole = optimize(variables, loss, config())
    started, loss = everything()
    with pytest.raises(KilledError):
        optimize(started, loss, config(checkpointing_steps=killed_after), on_step=kill)
    resumed, loss = everything()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    history = optimize(resumed, loss, config(resume_from_checkpoint="latest"))
    assert history.losses == whole.losses
    assert all(torch.equal(resumed[name], variables[name]) for name in variables)


def test_killed_runs_lose_nothing(tmp_path, monkeypatch):
    """In full, and through the embedded model: benchmarks/kills.py."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    from kills import kill_and_resume

    kill_and_resume("quadratic", steps=12, kills=4, seed=0, folder=tmp_path)
