"""The optimisation loop: it goes down, it resumes exactly, it says what is wrong."""

import pytest
import torch

from adjointdpm.runs import OptimizeConfig, optimize
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
