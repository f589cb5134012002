"""ControlNet beyond the generic tests: its own weights, steps without control, what is refused."""

import pytest
import torch
from families_controlnet import build, build_several, control

import adjointdpm as adp
from adjointdpm.pipelines.families.controlnet import control_times

PROMPTS = ["a", "b"]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return build(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def noise():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def stock(pipe, noise, gradient=False, **arguments):
    call = type(pipe).__call__
    call = call.__wrapped__ if gradient else call
    return call(
        pipe, PROMPTS, latents=noise, num_inference_steps=4, guidance_scale=3.0,
        output_type="latent", **arguments,
    ).images  # fmt: skip


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.25, 1.0), (0.3, 0.8)])
def test_steps_without_control(pipe, noise, start, end):
    sampler, _ = adp.from_pipeline(pipe, 4, 3.0)
    cond = adp.encode_prompt(pipe, PROMPTS, control_image=control(6))
    ours = sampler(noise, control_times=control_times(sampler.plan, start, end), **cond)
    arguments = {"control_guidance_start": start, "control_guidance_end": end}
    theirs = stock(pipe, noise, image=control(6), **arguments)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    assert not torch.allclose(ours, sampler(noise, **cond), rtol=1e-3)


def test_steps_without_control_of_several(tmp_path, noise):
    pipe = build_several(tmp_path)
    sampler, _ = adp.from_pipeline(pipe, 4, 3.0)
    images = [control(6), control(7)]
    cond = adp.encode_prompt(pipe, PROMPTS, control_image=images)
    times = [control_times(sampler.plan, 0.0, 0.5), control_times(sampler.plan, 0.5, 1.0)]
    ours = sampler(noise, control_times=times, **cond)
    arguments = {"control_guidance_start": [0.0, 0.5], "control_guidance_end": [0.5, 1.0]}
    theirs = stock(pipe, noise, image=images, **arguments)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    with pytest.raises(ValueError, match="need as many pictures"):
        adp.encode_prompt(pipe, PROMPTS, control_image=images[:1])


def test_weights_of_both_networks(pipe, noise):
    weights = [pipe.unet.conv_in.weight, pipe.controlnet.conv_in.weight]
    for weight in weights:
        weight.requires_grad_()
    try:
        sampler, _ = adp.from_pipeline(pipe, 4, 3.0)
        cond = adp.encode_prompt(pipe, PROMPTS, control_image=control(6))
        ours = torch.autograd.grad(sampler(noise, **cond).square().sum(), weights)
        sample = stock(pipe, noise, gradient=True, image=control(6))
        theirs = torch.autograd.grad(sample.square().sum(), weights)
    finally:
        pipe.unet.requires_grad_(False)
        pipe.controlnet.requires_grad_(False)
    for mine, other in zip(ours, theirs, strict=True):
        assert other.any()
        assert (mine - other).abs().max() < 1e-4 * other.abs().max()


def test_the_scale_can_get_a_gradient(pipe, noise):
    scale = torch.tensor(0.7, requires_grad=True)
    sampler, _ = adp.from_pipeline(pipe, 4, 3.0)
    arguments = {"control_image": control(6), "controlnet_conditioning_scale": scale}
    cond = adp.encode_prompt(pipe, PROMPTS, **arguments)
    (gradient,) = torch.autograd.grad(sampler(noise, **cond).square().sum(), scale)
    values = []
    with torch.no_grad():
        for step in (1e-2, -1e-2):
            values.append(sampler(noise, **{**cond, "conditioning_scale": scale + step}))
    difference = (values[0].square().sum() - values[1].square().sum()) / 2e-2
    torch.testing.assert_close(gradient, difference, rtol=1e-2, atol=0)


def test_no_controlled_step_is_refused(pipe):
    sampler, _ = adp.from_pipeline(pipe, 4)
    with pytest.raises(ValueError, match="no call of 4 is controlled"):
        control_times(sampler.plan, 0.3, 0.4)


def test_guess_mode_is_refused(pipe):
    with pytest.raises(ValueError, match="guess_mode"):
        adp.encode_prompt(pipe, "a", control_image=control(6, 1), guess_mode=True)
