"""The coarse adjoint: exact where nothing is left out, and close where most is."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mixtures import PROCESSES, GaussianMixture
from networks import SmallNetwork, relative_error

from adjointdpm import CoarseAdjoint, Denoiser, Exact, Plan, Sampler, Schedule, solvers
from adjointdpm.gradients.coarse import coarse_steps


@given(steps=st.integers(1, 60), count=st.integers(1, 80))
def test_blocks_are_as_equal_as_they_can_be(steps: int, count: int) -> None:
    starts = coarse_steps(steps, count)
    assert starts[0] == 0
    assert len(starts) == min(steps, count)
    lengths = [end - start for start, end in pairwise([*starts, steps])]
    assert min(lengths) > 0
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("process", ["vp", "flow", "edm"])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "deis2"])
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


def test_a_quarter_of_the_products_gives_nearly_the_direction() -> None:
    """On a scheduler of diffusers, with guidance."""
    scheduler = diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction")
    schedule = Schedule.from_config(scheduler.config)
    plan = Plan.from_scheduler(scheduler, 48)
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
        assert cosine > 0.99
        assert relative_error(gradient, reference) < 0.2


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
    [({"num_steps": 0}, "at least 1"), ({"num_steps": 1, "solver": "nothing"}, "not known")],
)
def test_wrong_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoarseAdjoint(**arguments)


def test_solvers_with_stages_are_refused() -> None:
    plan = solvers.build("ddim", PROCESSES["vp"], 8)
    sampler = Sampler(Denoiser(SmallNetwork(), PROCESSES["vp"]), plan, CoarseAdjoint(4, "heun"))
    with pytest.raises(ValueError, match="one network call a step"):
        sampler(torch.randn(3, 4), emb=torch.randn(3, 3))
