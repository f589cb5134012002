"""What the loop is tested on: nothing of diffusion."""

from __future__ import annotations

import torch

from adjointdpm.runs import OptimizeConfig


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
