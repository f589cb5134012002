"""The noise of given latents: where there is an inverse it is found, and errors are true."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import PROCESSES, GaussianMixture
from networks import CountingNetwork
from torch import Tensor

import adjointdpm as adp
from adjointdpm import Denoiser, PerStep, Reversible, Sampler, invert, invert_images, solvers
from adjointdpm.inversion.fixed_point import fixed_point

MIXTURE = GaussianMixture()
TIGHT = {"tolerance": 1e-10, "max_iterations": 60}


def sampler_of(
    process: str, solver: str = "ddim", steps: int = 6, prediction_type: str = "v_prediction",
    gradient: Any = None,
) -> Sampler:  # fmt: skip
    schedule = PROCESSES[process]
    plan = solvers.build(solver, schedule, steps, prediction_type=prediction_type)
    network = MIXTURE.network(schedule, prediction_type)
    return Sampler(Denoiser(network, schedule, prediction_type), plan, gradient)


def some_noise(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, MIXTURE.dim, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("solver", ["ddim", "heun"])
@pytest.mark.parametrize("process", PROCESSES)
def test_one_step_methods_are_undone(process: str, solver: str) -> None:
    sampler, noise = sampler_of(process, solver), some_noise()
    found = invert(sampler, sampler(noise), **TIGHT)
    torch.testing.assert_close(found.noise, noise, atol=1e-8, rtol=0)
    assert found.error.max() < 1e-8
    assert len(found.residuals) == len(found.iterations) == 6
    assert max(found.residuals) <= 1e-10


@settings(max_examples=10, deadline=None)
@given(
    steps=st.integers(2, 12),
    prediction_type=st.sampled_from(["sample", "v_prediction", "flow_prediction"]),
    process=st.sampled_from(sorted(PROCESSES)),
    seed=st.integers(0, 10**6),
)
def test_what_is_drawn_is_found_again(
    steps: int, prediction_type: str, process: str, seed: int
) -> None:
    """Whatever the network predicts: the inverse is of the process, not of how it is written."""
    sampler, noise = sampler_of(process, "ddim", steps, prediction_type), some_noise(seed)
    found = invert(sampler, sampler(noise), **TIGHT)
    torch.testing.assert_close(found.noise, noise, atol=1e-7, rtol=0)


@pytest.mark.parametrize("family", ["mccallum_foster", "bdia", "belm"])
@pytest.mark.parametrize("process", ["vp", "flow", "edm"])
def test_reversible_samplers_are_walked_back(process: str, family: str) -> None:
    sampler, noise = sampler_of(process, gradient=Reversible(family=family)), some_noise()
    found = invert(sampler, sampler(noise), **TIGHT)
    torch.testing.assert_close(found.noise, noise, atol=1e-8, rtol=0)
    assert found.error.max() < 1e-8


@pytest.mark.parametrize("gradient", [None, Reversible()], ids=["ddim", "reversible"])
def test_the_reported_error_is_that_of_sampling(gradient: Any) -> None:
    """Also where there is no such noise, and where the search ended early."""
    sampler = sampler_of("vp", gradient=gradient)
    far = 30 * some_noise()
    for iterations in (1, 5):
        found = invert(sampler, far, max_iterations=iterations)
        torch.testing.assert_close(sampler(found.noise), found.sample)
        expected = (found.sample - far).norm(dim=1) / far.norm(dim=1)
        torch.testing.assert_close(found.error, expected)
        assert max(found.iterations) <= iterations
    assert (found.error > 0).all()


def test_conditioning_guidance_and_the_number_of_calls() -> None:
    schedule = PROCESSES["vp"]
    torch.manual_seed(0)
    network = CountingNetwork().requires_grad_(False)
    plan = solvers.build("ddim", schedule, 5, prediction_type="v_prediction")
    sampler = Sampler(Denoiser(network, schedule, "v_prediction"), plan)
    noise, emb, other = (torch.randn(2, n, dtype=torch.float64) for n in (4, 3, 3))
    cond = {"emb": PerStep([emb, other, emb, emb, emb]), "negative_emb": other}
    latents = sampler(noise, guidance_scale=1.5, **cond)
    before = network.counter.calls
    found = invert(sampler, latents, guidance_scale=1.5, **cond, **TIGHT)
    # Both passes of guidance are one call of a doubled batch.
    assert network.counter.calls - before == found.num_calls
    torch.testing.assert_close(found.noise, noise, atol=1e-7, rtol=0)
    assert not found.noise.requires_grad


def test_what_cannot_be_inverted_is_refused_with_the_reason() -> None:
    latents = some_noise()
    with pytest.raises(ValueError, match=r"outputs of earlier steps.*Reversible"):
        invert(sampler_of("vp", "dpmpp_2m", 20), latents)
    with pytest.raises(ValueError, match="max_iterations at least 1"):
        invert(sampler_of("vp"), latents, max_iterations=0)
    with pytest.raises(ValueError, match="draws noise on the way"):
        invert(sampler_of("vp", "ddpm"), latents)
    with pytest.raises(ValueError, match="in one step"):
        invert(sampler_of("flow", steps=1), latents)
    schedule = PROCESSES["vp"]
    network = MIXTURE.network(schedule, "sample")
    clipping = Denoiser(network, schedule, "sample", clip_sample=True)
    plan = solvers.build("ddim", schedule, 4, prediction_type="sample")
    with pytest.raises(ValueError, match="clips its predicted sample"):
        invert(Sampler(clipping, plan), latents)


def test_fixed_points_of_linear_maps_take_as_many_steps_as_dimensions() -> None:
    """Anderson acceleration is GMRES on a linear map; plain iteration would diverge on these."""
    matrix = torch.diag(torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64))
    shift = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 0.5]], dtype=torch.float64)
    expected = torch.linalg.solve(torch.eye(3, dtype=torch.float64) - matrix, shift.T).T
    found = fixed_point(
        lambda x: x @ matrix.T + shift,
        torch.zeros_like(shift),
        unit=torch.ones(2, dtype=torch.float64),
        tolerance=1e-9,
        max_iterations=8,
    )
    torch.testing.assert_close(found.x, expected, atol=1e-7, rtol=0)


def test_samples_do_not_depend_on_their_batch() -> None:
    sampler, noise = sampler_of("cosine"), some_noise()
    latents = sampler(noise)
    together = invert(sampler, latents, **TIGHT).noise
    alone = [invert(sampler, latents[i : i + 1], **TIGHT).noise for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-7, rtol=0)


def test_a_picture_of_the_embedded_model() -> None:
    from diffusers import DDIMScheduler

    default = adp.load_default()
    pipe = default.pipeline
    ddim = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    sampler, decode = adp.from_pipeline(pipe, 6, 1.0, scheduler=ddim)
    cond = adp.encode_prompt(pipe, [default.concepts.prompt("robot", "noto")], guidance=False)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        picture = decode(sampler(noise, **cond)).mul(255).round().div(255)
    found = invert_images(pipe, sampler, decode, picture, max_iterations=12, **cond)
    difference = (found.images - picture).square().mean().sqrt()
    torch.testing.assert_close(found.pixel_error[0], difference)
    # Nearly all that is lost is lost in the autoencoder.
    assert found.inversion.error < 0.05
    assert found.pixel_error < 2 * found.autoencoder_error
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        invert_images(pipe, sampler, decode, 2 * picture - 1, **cond)
