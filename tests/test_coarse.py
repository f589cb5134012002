"""The coarse adjoint: exact where nothing is left out, and close where most is."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mixtures import PROCESSES, GaussianMixture
from networks import SmallNetwork, relative_error
from torch import nn

from adjointdpm import CoarseAdjoint, Denoiser, Exact, Plan, Sampler, Schedule, solvers
from adjointdpm.gradients.coarse import coarse_steps


@given(steps=st.integers(1, 60), count=st.integers(1, 80), density=st.floats(1, 4))
def test_blocks_are_there_and_shorten(steps: int, count: int, density: float) -> None:
    starts = coarse_steps(steps, count, density)
    assert starts[0] == 0
    assert len(starts) == min(steps, count)
    lengths = [end - start for start, end in pairwise([*starts, steps])]
    assert min(lengths) > 0
    # But for rounding.
    assert all(following <= length + 1 for length, following in pairwise(lengths))


@given(steps=st.integers(1, 60), count=st.integers(1, 80))
def test_blocks_are_as_equal_as_they_can_be(steps: int, count: int) -> None:
    starts = coarse_steps(steps, count)
    assert starts[0] == 0
    assert len(starts) == min(steps, count)
    lengths = [end - start for start, end in pairwise([*starts, steps])]
    assert min(lengths) > 0
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("process", ["vp", "flow", "edm"])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "deis2", "unipc_bh2_2"])
def test_with_every_step_it_is_the_exact_gradient(process: str, solver: str) -> None:
    network, schedule = SmallNetwork(), PROCESSES[process]
    denoiser = Denoiser(network, schedule, "v_prediction", guidance_scale=2.0)
    plan = solvers.build(solver, schedule, 20, prediction_type="v_prediction")
    noise = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    emb, negative = (torch.randn(3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    targets = [noise, emb, negative, *network.used]
    gradients = []
    for method in (CoarseAdjoint(20, solver), Exact()):
        sample = Sampler(denoiser, plan, method)(noise, emb=emb, negative_emb=negative)
        gradients.append(torch.autograd.grad((sample**3).sum(), targets))
    for gradient, reference in zip(*gradients, strict=True):
        assert relative_error(gradient, reference) < 1e-10


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_a_quarter_of_the_products_gives_the_direction(scheduler: str) -> None:
    """On schedulers of diffusers, with guidance."""
    settings = {"prediction_type": "v_prediction"}
    if scheduler == "DDIMScheduler":
        settings["clip_sample"] = False
    chosen = getattr(diffusers, scheduler)(**settings)
    schedule = Schedule.from_config(chosen.config)
    plan = Plan.from_scheduler(chosen, 48)
    mixture = GaussianMixture()
    denoiser = Denoiser(
        mixture.network(schedule, "v_prediction"),
        schedule,
        "v_prediction",
        guidance_scale=2.0,
        guidance_passes="sequential",
    )
    noise = torch.randn(8, mixture.dim, dtype=torch.float64, requires_grad=True)
    means = mixture.means.clone().requires_grad_()

    def gradients(method: Any) -> tuple[torch.Tensor, ...]:
        sample = Sampler(denoiser, plan, method)(
            noise, means=means, negative_means=0.5 * mixture.means
        )
        return torch.autograd.grad((sample**2).sum() + sample.sin().sum(), [noise, means])

    exact = gradients(Exact())
    for gradient, reference in zip(gradients(CoarseAdjoint(12)), exact, strict=True):
        cosine = torch.cosine_similarity(gradient.flatten(), reference.flatten(), dim=0)
        assert cosine > 0.999
        # DDIM's own gradient is off that of the ODE by this much in size, the coarse one less.
        limit = 0.15 if scheduler == "DDIMScheduler" else 0.05
        assert relative_error(gradient, reference) < limit


@pytest.mark.parametrize("num_steps", [4, 12])
def test_weights_and_conditioning_agree(num_steps: int) -> None:
    """A shift of the output is the same as one that is passed in: one gradient in two places."""

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(4, dtype=torch.float64))

        def forward(self, x: torch.Tensor, t: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
            return (x + self.shift + shift).sin()

    network, plan = Shifted(), solvers.build("dpmpp_2m", PROCESSES["vp"], 24)
    sampler = Sampler(Denoiser(network, PROCESSES["vp"]), plan, CoarseAdjoint(num_steps))
    shift = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    sample = sampler(torch.randn(3, 4, dtype=torch.float64), shift=shift)
    one, other = torch.autograd.grad((sample**3).sum(), [network.shift, shift])
    torch.testing.assert_close(one, other)


def test_its_plan_can_be_looked_at() -> None:
    plan = solvers.build("ddim", PROCESSES["vp"], 20)
    coarse = CoarseAdjoint(5).plan(plan, PROCESSES["vp"])
    assert coarse.num_calls == 5
    assert set(coarse.timesteps) <= set(plan.timesteps)
    assert coarse.timesteps[0] == plan.timesteps[0]


def test_it_runs_the_network_again_once_a_block() -> None:
    calls = 0

    class Counting(SmallNetwork):
        def forward(self, *args: Any, **cond: Any) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return super().forward(*args, **cond)

    plan = solvers.build("ddim", PROCESSES["vp"], 20)
    sampler = Sampler(Denoiser(Counting(), PROCESSES["vp"]), plan, CoarseAdjoint(5))
    emb = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    sampler(torch.randn(3, 4, dtype=torch.float64), emb=emb).sum().backward()
    assert calls == 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "at least 1"),
        ({"num_steps": 1, "solver": "nothing"}, "not known"),
        ({"num_steps": 1, "density": 0.5}, "density must be at least 1"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoarseAdjoint(**arguments)


def test_solvers_with_stages_are_refused() -> None:
    plan = solvers.build("ddim", PROCESSES["vp"], 8)
    sampler = Sampler(Denoiser(SmallNetwork(), PROCESSES["vp"]), plan, CoarseAdjoint(4, "heun"))
    with pytest.raises(ValueError, match="one network call a step"):
        sampler(torch.randn(3, 4), emb=torch.randn(3, 3))


def test_the_study_runs(tmp_path: Path) -> None:
    """benchmarks/coarse.py on a Gaussian mixture, in small."""
    script = Path(__file__).parents[1] / "benchmarks" / "coarse.py"
    sizes = ["--num_inference_steps", "8", "--num_steps", "2", "8", "--seeds", "1"]
    done = subprocess.run(
        [sys.executable, str(script), "--toy", *sizes, "--output_dir", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "coarse.json").read_text())["rows"]
    own = [
        row["relative_error"]
        for row in rows
        if (row["scheduler"], row["rule"], row["reverse_calls"])
        == ("DDIM", "ddim, equal blocks", 8)
    ]
    assert len(own) == 3
    assert max(own) < 1e-3
    assert (tmp_path / "coarse.png").stat().st_size > 0
