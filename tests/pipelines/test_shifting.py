"""Shifted timesteps, and the two weights of guidance, of flow-matching pipelines."""

import families_flux
import families_stable_diffusion_3
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

import adjointdpm as adp
from adjointdpm.pipelines.families.shifting import dynamic_shift


@pytest.mark.parametrize("length", [64, 4096, 10000])
def test_the_shift_is_that_of_diffusers(length):
    settings = {"base_shift": 0.3, "max_shift": 1.7, "base_image_seq_len": 100}
    scheduler = FlowMatchEulerDiscreteScheduler(**settings)
    expected = calculate_shift(length, base_seq_len=100, base_shift=0.3, max_shift=1.7)
    assert dynamic_shift(scheduler, length) == pytest.approx(expected, rel=1e-12)


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    return families_flux.build_dev(tmp_path_factory.mktemp("tokenizer"))


def test_noise_of_another_size_than_the_timesteps_is_refused(flux):
    sampler, _ = adp.from_pipeline(flux, 2, height=16, width=16)
    cond = adp.encode_prompt(flux, "a")
    sampler(torch.randn(adp.latent_shape(flux, height=16, width=16)), **cond)
    with pytest.raises(ValueError, match="Give from_pipeline the size"):
        sampler(torch.randn(adp.latent_shape(flux, height=32, width=16)), **cond)


def test_a_plan_of_ones_own_fits_any_size(flux):
    plan = adp.Plan.from_scheduler(flux.scheduler, 2, mu=0.5)
    sampler, _ = adp.from_pipeline(flux, plan=plan)
    noise = torch.randn(adp.latent_shape(flux, height=16, width=16))
    assert sampler(noise, **adp.encode_prompt(flux, "a")).shape == noise.shape


def test_an_embedded_guidance_scale_may_be_less_than_one(flux):
    noise = torch.randn(adp.latent_shape(flux, height=16, width=16))
    cond = adp.encode_prompt(flux, "a")
    arguments = {"height": 16, "width": 16}
    with torch.no_grad():
        none, half = (adp.from_pipeline(flux, 2, g, **arguments)[0] for g in (0.0, 0.5))
        assert not torch.allclose(none(noise, **cond), half(noise, **cond))


def test_true_guidance_needs_a_negative_prompt(flux):
    sampler, _ = adp.from_pipeline(flux, 2, true_cfg_scale=2.0, height=16, width=16)
    noise = torch.randn(adp.latent_shape(flux, height=16, width=16))
    with pytest.raises(ValueError, match="negative_"):
        sampler(noise, **adp.encode_prompt(flux, "a"))


def test_true_guidance_is_refused_where_guidance_is_true(tmp_path):
    pipe = families_stable_diffusion_3.build(tmp_path)
    with pytest.raises(ValueError, match="two passes is guidance_scale"):
        adp.from_pipeline(pipe, 2, true_cfg_scale=2.0)
