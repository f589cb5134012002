"""The scripts that made the embedded model, where numbers can be known."""

import argparse
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).parent.parent))

from training.augment import affine, vary
from training.diversity import mean_distance
from training.loop import Ema, Run, add_training_arguments


def test_white_stays_white_under_every_variation():
    white = torch.ones(8, 3, 16, 16)
    assert torch.equal(vary(white), white)


def test_copies_of_a_picture_become_different_pictures():
    picture = torch.rand(1, 3, 16, 16).mul(2).sub(1).expand(6, -1, -1, -1)
    varied = vary(picture)
    assert varied.min() >= -1
    assert varied.max() <= 1
    assert torch.cdist(varied.flatten(1), varied.flatten(1)).fill_diagonal_(1).min() > 0.5


@pytest.mark.parametrize("mirror", [0.0, 1.0])
def test_affine_with_nothing_to_do_gives_the_picture_back(mirror):
    picture = torch.rand(3, 3, 16, 16)
    zero, one = torch.zeros(3), torch.ones(3)
    same = affine(
        picture, angle=zero, scale=one, stretch=one, shear=zero, shift=zero[None].expand(2, 3),
        mirror=mirror,
    )  # fmt: skip
    torch.testing.assert_close(same, picture.flip(-1) if mirror else picture, rtol=0, atol=1e-5)


def test_mean_distance_is_over_pairs_of_different_draws():
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0], [1.0, 1.0]])
    assert mean_distance(points, draws=2) == pytest.approx(2.5)
    assert mean_distance(points[2:], draws=2) == 0


def settings(folder: Path, steps: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_training_arguments(parser, output_dir=folder, learning_rate=0.1, max_train_steps=steps)
    args = parser.parse_args(["--output_dir", str(folder), "--lr_warmup_steps", "1"])
    args.logging_steps = args.checkpointing_steps = 10
    return args


def train(folder: Path, steps: int, *, stop: int | None = None, resume: bool = False) -> Run:
    """Pull a weight to 1, and end early after `stop` updates, as a killed run does."""
    module = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(module.weight)
    args = settings(folder, steps)
    args.resume_from_checkpoint = resume
    run = Run(module, torch.optim.AdamW(module.parameters(), weight_decay=0.0), args)

    def losses() -> dict[str, torch.Tensor]:
        if run.step == stop:
            raise KeyboardInterrupt
        return {"loss": (module.weight - 1).square().sum()}

    run.train(losses)
    return run


def test_a_run_learns_and_a_killed_one_ends_where_it_would_have(tmp_path):
    whole = train(tmp_path / "whole", 40)
    assert (whole.module.weight.item() - 1) ** 2 < 0.01  # it was 1
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", 40, stop=25)
    resumed = train(tmp_path / "killed", 40, resume=True)
    assert resumed.step == whole.step == 40
    assert torch.equal(resumed.module.weight, whole.module.weight)
    assert torch.equal(resumed.ema.module.weight, whole.ema.module.weight)


def test_averaged_weights_are_those_of_the_formula():
    module = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(module.weight)
    ema, average = Ema(module, decay=0.5), 0.0
    for step in range(1, 8):
        nn.init.constant_(module.weight, step)
        ema.advance()
        ema.update(module)
        average += (1 - min(0.5, (1 + step) / (10 + step))) * (step - average)
    assert math.isclose(ema.module.weight.item(), average, rel_tol=1e-6)
