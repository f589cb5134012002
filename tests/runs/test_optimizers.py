"""The optimisers: known by name, resumed bit for bit, and in 8 bits where bitsandbytes is there."""

import sys

import pytest
import torch

from adjointdpm.runs import OptimizeConfig, optimize
from adjointdpm.runs.optimizers import build_optimizer


def tensors():
    # Small ones and large ones are kept in different ways by bitsandbytes.
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(size, generator=generator).requires_grad_()
        for name, size in (("unet.a", (3, 5)), ("a", (128, 64)), ("b", (128, 64)))
    }


def run(folder, variables, steps, **changes):
    config = OptimizeConfig(
        max_train_steps=steps, output_dir=folder, progress_bar=False, learning_rate=0.1, **changes
    )
    return optimize(variables, lambda _: sum(v.square().sum() for v in variables.values()), config)


def available(name):
    if name == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    return name


@pytest.mark.parametrize("name", ["adam", "adamw", "adamw8bit"])
def test_goes_down_and_resumes_bit_for_bit(tmp_path, name):
    optimizer = available(name)
    whole, first, second = tensors(), tensors(), tensors()
    history = run(tmp_path / "whole", whole, 12, optimizer=optimizer)
    assert history.losses[-1] < 0.5 * history.losses[0]
    run(tmp_path, first, 6, optimizer=optimizer, checkpointing_steps=6)
    resumed = run(tmp_path, second, 12, optimizer=optimizer, resume_from_checkpoint="latest")
    assert resumed.losses == history.losses
    assert all(torch.equal(second[name], whole[name]) for name in whole)


def test_adam_is_that_of_torch(tmp_path):
    ours, theirs = tensors(), tensors()
    run(tmp_path, ours, 3, optimizer="adamw")
    optimizer = torch.optim.AdamW(theirs.values(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        sum(v.square().sum() for v in theirs.values()).backward()
        optimizer.step()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_eight_bits(tmp_path):
    available("adamw8bit")
    weight = torch.randn(128, 64, requires_grad=True)
    optimizer = build_optimizer("adamw8bit", [weight], 0.1, weight_decay=0.0)
    weight.square().sum().backward()
    optimizer.step()
    moments = [v for v in optimizer.state[weight].values() if torch.is_tensor(v)]
    assert sum(m.nbytes for m in moments if m.shape == weight.shape) == 2 * weight.numel()


def test_eight_bits_without_bitsandbytes(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ImportError, match=r"pip install 'adjointdpm\[8bit\]'"):
        build_optimizer("adamw8bit", [torch.zeros(2, requires_grad=True)], 0.1)


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="not 'sgd'"):
        build_optimizer("sgd", [], 0.1)
    with pytest.raises(ValueError, match="optimizer must be one of"):
        OptimizeConfig(optimizer="sgd")
    run(tmp_path, tensors(), 2, checkpointing_steps=2)
    with pytest.raises(ValueError, match="written with optimizer='adam'"):
        run(tmp_path, tensors(), 4, optimizer="adamw", resume_from_checkpoint="latest")
