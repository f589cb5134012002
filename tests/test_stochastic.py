"""Samplers that draw noise, and the noise that they draw."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import PROCESSES, GaussianMixture
from oracles import SD, assert_tables_agree

from adjointdpm import Backprop, CounterNoise, Denoiser, Exact, Plan, Sampler, Schedule, solvers
from adjointdpm.prediction import output_of

STOCHASTIC: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("ddpm", {}),
    "euler_ancestral": ("euler_ancestral", {}),
    "ddim_half": ("ddim", {"eta": 0.5}),
    "sde_dpmpp_2m": ("sde_dpmpp_2m", {}),
    "edm_churn": ("edm_churn", {"s_churn": 30.0}),
    "edm_churn_in_a_band": ("edm_churn", {"s_churn": 30.0, "s_tmin": 0.1, "s_tmax": 3.0}),
}


def _moments(plan: Plan, schedule: Schedule, mean: float, std: float) -> tuple[float, float]:
    """Return mean and variance of the samples for Gaussian data, whose perfect denoiser is affine.

    Every latent is then an affine function of the noise and the draws, so no sampling is needed.
    """
    assert plan.prediction_type is not None
    table, calls = plan.table, plan.num_calls
    # Columns: noise, draws, and the constant 1.
    values = np.zeros((table.shape[1], 1 + plan.num_draws + 1))
    values[0, 0] = 1.0
    values[1 + calls :, 1:-1] = np.eye(plan.num_draws)
    for k, t in enumerate(plan.timesteps):
        alpha, sigma = schedule.alpha(float(t)), schedule.sigma(float(t))
        x = table[k] @ values
        variance = alpha**2 * std**2 + sigma**2
        residual = x.copy()
        residual[-1] -= alpha * mean
        sample = alpha * std**2 / variance * residual
        sample[-1] += mean
        noise = sigma / variance * residual
        a, b = output_of(plan.prediction_type, alpha, sigma)
        values[1 + k] = a * sample + b * noise
    row = table[-1] @ values
    return float(row[-1]), float((row[:-1] ** 2).sum())


@pytest.mark.parametrize("process", ["vp", "edm", "flow", "sub_vp", "scaled_linear"])
@pytest.mark.parametrize("name", STOCHASTIC)
def test_the_marginal_of_the_data_is_reached(name: str, process: str) -> None:
    """With a perfect denoiser, mean and variance come out right as the steps grow small."""
    solver, options = STOCHASTIC[name]
    schedule, mean, std = PROCESSES[process], 0.4, 0.7
    spacing = "linspace" if process == "flow" else "log_snr"
    errors = []
    for steps in (50, 200):
        plan = solvers.build(
            solver,
            schedule,
            steps,
            spacing,
            "v_prediction",
            final_sigmas_type="sigma_min",
            **options,
        )
        got = _moments(plan, schedule, mean, std)
        alpha, sigma = schedule.alpha(schedule.t_min), schedule.sigma(schedule.t_min)
        wanted = alpha * mean, alpha**2 * std**2 + sigma**2
        errors.append(max(abs(got[0] - wanted[0]), abs(got[1] - wanted[1])))
    # What remains is the start, which takes the little data in x_T for none.
    assert errors[1] < 0.04, errors
    assert errors[1] < 0.5 * errors[0] + 1e-2, errors


@pytest.mark.parametrize("steps", [9, 16])
@pytest.mark.parametrize(
    ("solver", "scheduler", "options"),
    [
        ("ddpm", diffusers.DDPMScheduler(clip_sample=False, **SD), {}),
        ("ddpm", diffusers.DDPMScheduler(clip_sample=False, prediction_type="v_prediction"), {}),
        ("euler_ancestral", diffusers.EulerAncestralDiscreteScheduler(**SD), {}),
        ("ddim", diffusers.DDIMScheduler(clip_sample=False, **SD), {"eta": 0.3}),
        ("ddim", diffusers.DDIMScheduler(clip_sample=False, **SD), {"eta": 1.0}),
        (
            "sde_dpmpp_2m",
            diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **SD),
            {},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tables_agree_with_diffusers(
    solver: str, scheduler: Any, options: dict[str, float], steps: int
) -> None:
    assert_tables_agree(solver, scheduler, steps, step_arguments=options or None, **options)


def test_no_churn_is_edms_heun() -> None:
    for process in ("edm", "flow"):
        still = solvers.build(
            "edm_churn", PROCESSES[process], 6, prediction_type="v_prediction", s_churn=0.0
        )
        heun = solvers.build("heun", PROCESSES[process], 6, prediction_type="v_prediction")
        assert still.num_draws == 0
        np.testing.assert_allclose(still.table, heun.table, atol=1e-12)


def test_churn_follows_algorithm_2() -> None:
    """Against a direct transcription for alpha = 1 and a network that returns what it is given."""
    schedule, s_noise, s_churn = Schedule.edm(), 1.1, 4.0
    sigmas = [60.0, 20.0, 3.0, 0.5, 0.0]
    plan = solvers.build(
        "edm_churn", schedule, 4, timesteps=sigmas[:-1], s_churn=s_churn, s_noise=s_noise, s_tmin=1
    )
    rng = np.random.default_rng(0)
    noise, draws = rng.normal(size=4), rng.normal(size=(plan.num_draws, 4))

    def network(x: np.ndarray, sigma: float) -> np.ndarray:
        return np.tanh(x) * np.log(sigma + 2)

    x, used = sigmas[0] * noise, 0
    for sigma, following in pairwise(sigmas):
        gamma = min(s_churn / 4, 2**0.5 - 1) if sigma >= 1 else 0.0
        raised = min(sigma * (1 + gamma), 80.0)
        if gamma:
            x = x + (raised**2 - sigma**2) ** 0.5 * s_noise * draws[used]
            used += 1
        slope = network(x, raised)
        ahead = x + (following - raised) * slope
        if following:
            ahead = x + (following - raised) * 0.5 * (slope + network(ahead, following))
        x = ahead
    assert used == plan.num_draws == 3

    values = np.concatenate([noise[None], np.zeros((plan.num_calls, 4)), draws])
    for k, t in enumerate(plan.timesteps):
        values[1 + k] = network(plan.table[k] @ values, float(t))
    np.testing.assert_allclose(plan.table[-1] @ values, x, rtol=1e-9)


def test_eta_one_is_ancestral_and_eta_zero_is_the_ode() -> None:
    schedule = Schedule.vp_linear()
    ancestral = solvers.build("ddim", schedule, 7, eta=1.0)
    np.testing.assert_array_equal(ancestral.table, solvers.build("ddpm", schedule, 7).table)
    assert solvers.build("ddim", schedule, 7, eta=0.0).num_draws == 0
    assert ancestral.num_draws == 6


def _sampler(gradient: Any, solver: str = "sde_dpmpp_2m") -> Sampler:
    schedule = PROCESSES["vp"]
    plan = solvers.build(solver, schedule, 6, prediction_type="v_prediction")
    network = GaussianMixture().network(schedule, "v_prediction")
    return Sampler(Denoiser(network, schedule, "v_prediction"), plan, gradient)


@pytest.mark.parametrize("solver", ["ddpm", "sde_dpmpp_2m", "edm_churn"])
def test_pathwise_gradient_is_exact(solver: str) -> None:
    gradients = []
    for method in (Exact(), Backprop()):
        sampler = _sampler(method, solver)
        noise = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
        draws = torch.ones(sampler.plan.num_draws, 2, 3, dtype=torch.float64, requires_grad=True)
        sampler(noise, draws=draws).square().sum().backward()
        gradients.append((noise.grad, draws.grad))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_counter_noise_makes_a_sampler_a_function() -> None:
    sampler = _sampler(Exact())
    noise = torch.zeros(2, 3, dtype=torch.float64)
    first = sampler(noise, generator=CounterNoise(4))
    torch.testing.assert_close(sampler(noise, generator=CounterNoise(4)), first, rtol=0, atol=0)
    assert not torch.equal(sampler(noise, generator=CounterNoise(5)), first)
    source = CounterNoise(4)
    draws = torch.stack([source(j, noise) for j in reversed(range(sampler.plan.num_draws))])
    torch.testing.assert_close(sampler(noise, draws=draws.flip(0)), first)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**40),
    numbers=st.lists(st.integers(0, 10**6), min_size=2, max_size=5, unique=True),
)
def test_counter_noise_does_not_depend_on_the_order(seed: int, numbers: list[int]) -> None:
    source, like = CounterNoise(seed), torch.empty(3, 2)
    forward = {j: source(j, like) for j in numbers}
    for j in reversed(numbers):
        assert torch.equal(CounterNoise(seed)(j, like), forward[j])
    values = torch.stack(list(forward.values())).flatten(1)
    assert len({tuple(row.tolist()) for row in values}) == len(numbers)


def test_counter_noise_is_standard_normal_and_unrelated_between_counters() -> None:
    like = torch.empty(20_000)
    rows = torch.stack([CounterNoise(s)(j, like) for s in (0, 1) for j in (0, 1, 2)])
    covariance = torch.cov(rows)
    torch.testing.assert_close(covariance, torch.eye(6), atol=0.04, rtol=0)
    assert rows.mean(1).abs().max() < 0.03


def test_counter_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    batch = CounterNoise((3, 8))(1, torch.empty(2, 4))
    alone = CounterNoise((8,))(1, torch.empty(1, 4))
    assert torch.equal(batch[1:], alone)
    with pytest.raises(ValueError, match="one seed a sample"):
        CounterNoise((3, 8))(1, torch.empty(3, 4))
