"""The settings: what is refused, and the learning rates that names stand for."""

import pytest
import torch
from diffusers.optimization import get_scheduler

from adjointdpm.runs import OptimizeConfig
from adjointdpm.runs.schedules import learning_rate_schedule

SCHEDULES = {
    "constant": {},
    "constant_with_warmup": {"lr_warmup_steps": 5},
    "linear": {"lr_warmup_steps": 3},
    "cosine": {},
    "cosine_with_restarts": {"lr_num_cycles": 3, "lr_warmup_steps": 2},
    "polynomial": {"lr_power": 2.0, "lr_warmup_steps": 4},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_learning_rates_are_those_of_diffusers(name):
    config = OptimizeConfig(
        learning_rate=0.3, lr_scheduler=name, max_train_steps=20, **SCHEDULES[name]
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    theirs = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=20,
        num_cycles=config.lr_num_cycles,
        power=config.lr_power,
    )
    ours = learning_rate_schedule(config)
    for step in range(1, 21):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=1e-15)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"max_grad_norm": 0}, "max_grad_norm must be positive"),
        ({"adam_beta2": 1.0}, "adam_beta2 must be from 0 to below 1"),
        ({"lr_scheduler": "step"}, "lr_scheduler must be one of constant, "),
        ({"lr_warmup_steps": -1}, "must not be negative"),
        ({"lr_warmup_steps": 5}, "set constant_with_warmup"),
        ({"mixed_precision": "fp8"}, "mixed_precision must be one of no, fp16, bf16"),
        ({"max_train_steps": 0}, "max_train_steps must be at least 1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be at least 1"),
        ({"checkpoints_total_limit": 0}, "checkpoints_total_limit must be at least 1"),
        ({"checkpointing_steps": 2}, "set output_dir"),
        ({"resume_from_checkpoint": "latest"}, "set output_dir"),
        ({"report_to": "tensorboard"}, "set output_dir"),
        ({"report_to": "tensorbord", "output_dir": "x"}, "report_to must be one of tensorboard, "),
    ],
)
def test_settings_that_mean_nothing(settings, message):
    with pytest.raises(ValueError, match=message):
        OptimizeConfig(**settings)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
def test_seeds_that_no_generator_takes(seed):
    with pytest.raises(ValueError, match="seed must be between 0 and"):
        OptimizeConfig(seed=seed)
