"""Guidance step by step: what it is without strength, with one inner step, and what it reaches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mixtures import PROCESSES, GaussianMixture
from torch import Tensor

from adjointdpm import (
    Backprop,
    CounterNoise,
    Denoiser,
    PerStep,
    Plan,
    Sampler,
    Schedule,
    StepGuidance,
    guided_sample,
    solvers,
)

MIXTURE = GaussianMixture(
    means=torch.tensor([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]], dtype=torch.float64),
    stds=torch.tensor([0.3, 0.3], dtype=torch.float64),
    weights=torch.tensor([0.5, 0.5], dtype=torch.float64),
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def sampler_of(
    schedule: Schedule, solver: str = "ddim", steps: int = 12, prediction_type: str = "epsilon"
) -> Sampler:
    denoiser = Denoiser(MIXTURE.network(schedule, prediction_type), schedule, prediction_type)
    plan = solvers.build(solver, schedule, steps, prediction_type=prediction_type)
    return Sampler(denoiser, plan)


def to_the_left(x: Tensor) -> Tensor:
    """Smaller where a sample is of the component at -2."""
    return (x - MIXTURE.means[1]).square().sum(1)


@pytest.mark.parametrize(
    ("process", "prediction_type"),
    [
        ("vp", "epsilon"),
        ("vp", "sample"),
        ("cosine", "v_prediction"),
        ("edm", "epsilon"),
        ("flow", "flow_prediction"),
    ],
)
def test_without_strength_it_is_the_sampler(process: str, prediction_type: str) -> None:
    sampler = sampler_of(PROCESSES[process], prediction_type=prediction_type)
    noise = normal(4, 3)
    sample = guided_sample(sampler, noise, to_the_left, StepGuidance(strength=0.0))
    torch.testing.assert_close(sample, sampler(noise), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("generator", [CounterNoise(3), "of torch"])
def test_without_strength_it_is_the_stochastic_sampler(generator: Any) -> None:
    sampler = sampler_of(PROCESSES["vp"], "ddpm")

    def fresh() -> Any:
        return torch.Generator().manual_seed(3) if generator == "of torch" else generator

    noise = normal(4, 3)
    sample = guided_sample(
        sampler, noise, to_the_left, StepGuidance(strength=0.0), generator=fresh()
    )
    torch.testing.assert_close(sample, sampler(noise, generator=fresh()), rtol=1e-10, atol=1e-10)


def test_one_inner_step_follows_the_predicted_clean_sample() -> None:
    schedule, strength = PROCESSES["vp"], 0.4
    sampler = sampler_of(schedule, steps=5)
    times = sampler.plan.timesteps
    marginals = [*zip(schedule.alpha(times), schedule.sigma(times), strict=True), (1.0, 0.0)]
    x = normal(4, 3)
    for k, row in enumerate(sampler.plan.program.rows[1:]):
        (alpha, sigma), (alpha_after, sigma_after) = marginals[k], marginals[k + 1]
        x = x.detach().requires_grad_()
        t = torch.full((4,), times[k], dtype=torch.float64)
        eps = MIXTURE.network(schedule, "epsilon")(x, t)
        clean = (x - sigma * eps) / alpha
        (gradient,) = torch.autograd.grad(to_the_left(clean).sum(), x)
        weights = {term.value.kind: term.weight for term in row}
        after = weights.get("input", weights.get("noise")) * x + weights["output"] * eps
        taken = sigma / (alpha + sigma) - sigma_after / (alpha_after + sigma_after)
        length = strength * 3**0.5 * taken * (alpha_after + sigma_after)
        x = after - length * gradient / gradient.norm(dim=1, keepdim=True)
    guidance = StepGuidance(strength=strength, inner_steps=1)
    found = guided_sample(sampler, normal(4, 3), to_the_left, guidance)
    torch.testing.assert_close(found, x.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inner_steps", [1, 4])
@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
def test_samples_go_where_the_loss_is_small(solver: str, inner_steps: int) -> None:
    sampler, noise = sampler_of(PROCESSES["vp"], solver, steps=20), normal(64, 3)
    plain = sampler(noise, generator=CounterNoise(1))
    guidance = StepGuidance(strength=4.0, inner_steps=inner_steps)
    guided = guided_sample(sampler, noise, to_the_left, guidance, generator=CounterNoise(1))
    assert 0.25 < (plain[:, 0] < 0).double().mean() < 0.75
    assert (guided[:, 0] < 0).double().mean() > 0.95
    # They are samples still: the steps that are left bring them to the data.
    assert to_the_left(guided).median() < 3 * 3 * 0.3**2


def test_going_back_leaves_the_distribution() -> None:
    """Without a loss that says anything, repeated steps draw from the same distribution."""
    sampler, noise = sampler_of(PROCESSES["vp"], "ddpm", steps=200), normal(2000, 3)

    def indifferent(x: Tensor) -> Tensor:
        return 0 * x.sum(1)

    repeated = guided_sample(
        sampler,
        noise,
        indifferent,
        StepGuidance(inner_steps=1, num_repeats=2, end=0.9, gradient=Backprop()),
        generator=CounterNoise(5),
    )
    distance = repeated[:, 0].abs() - 2
    assert abs(distance.mean()) < 0.05
    assert abs(distance.std() - 0.3) < 0.05
    assert abs((repeated[:, 0] < 0).double().mean() - 0.5) < 4 * 0.5 / 2000**0.5


def test_calls_are_counted_and_the_answer_of_the_step_is_used_again() -> None:
    schedule, calls = PROCESSES["vp"], []
    network = MIXTURE.network(schedule, "epsilon")

    def counted(x: Tensor, t: Tensor) -> Tensor:
        calls.append(float(t[0]))
        return network(x, t)

    sampler = Sampler(Denoiser(counted, schedule), solvers.build("ddim", schedule, 4))
    guidance = StepGuidance(inner_steps=3, gradient=Backprop())
    guided_sample(sampler, normal(2, 3), to_the_left, guidance)
    t = sampler.plan.timesteps.tolist()
    assert calls == [t[0], t[2], t[3], t[1], t[2], t[3], t[2], t[3], t[3]]


def test_samples_of_a_batch_do_not_depend_on_each_other() -> None:
    sampler, noise = sampler_of(PROCESSES["vp"]), normal(3, 3)
    together = guided_sample(sampler, noise, to_the_left)
    alone = [guided_sample(sampler, noise[i : i + 1], to_the_left) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun"])
def test_samplers_that_read_more_than_the_latent_are_refused(solver: str) -> None:
    with pytest.raises(ValueError, match="reads more than the present latent"):
        guided_sample(sampler_of(PROCESSES["vp"], solver), normal(2, 3), to_the_left)


def test_diffusers_schedulers() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EulerDiscreteScheduler(use_karras_sigmas=True)
    schedule = Schedule.from_config(scheduler.config)
    plan = Plan.from_scheduler(scheduler, 10)
    sampler = Sampler(Denoiser(MIXTURE.network(schedule, "epsilon"), schedule), plan)
    noise = normal(16, 3)
    plain = guided_sample(sampler, noise, to_the_left, StepGuidance(strength=0.0))
    torch.testing.assert_close(plain, sampler(noise), rtol=1e-6, atol=1e-6)
    guided = guided_sample(sampler, noise, to_the_left, StepGuidance(strength=4.0))
    assert (guided[:, 0] < 0).double().mean() > 0.9


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strength": -1.0}, "strength"),
        ({"inner_steps": 0}, "inner_steps"),
        ({"num_repeats": 0}, "num_repeats"),
        ({"start": 0.5, "end": 0.5}, "start and end"),
    ],
)
def test_settings_without_sense(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        StepGuidance(**settings)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda x: x.square().sum(), "one number a sample"),
        (lambda x: x.detach().sum(1), "no gradient"),
    ],
)
def test_losses_that_cannot_guide(loss: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        guided_sample(sampler_of(PROCESSES["vp"]), normal(2, 3), loss)


def test_conditioning_by_step_is_refused() -> None:
    with pytest.raises(ValueError, match="PerStep"):
        guided_sample(
            sampler_of(PROCESSES["vp"]), normal(2, 3), to_the_left, means=PerStep(normal(12, 2, 3))
        )
