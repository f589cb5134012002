"""Image to image beyond the generic tests: plans of one's own, encoding, and what is refused."""

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
)
from families_image_to_image import STRENGTH, build, picture
from families_stable_diffusion_3 import build as build_sd3
from families_stable_diffusion_xl import components
from first_draw import call_with_first_draw

import adjointdpm as adp


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return build(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def noise():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def stock(pipe, noise, steps, **arguments):
    arguments = {"num_inference_steps": steps, "output_type": "latent", **arguments}
    call = type(pipe).__call__
    return call_with_first_draw(pipe, call, {"latents": noise, **arguments})


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("steps", [4, 9])
def test_strength(pipe, noise, steps, strength):
    sampler, _ = adp.from_pipeline(pipe, steps, strength=strength)
    assert sampler.plan.num_calls == int(steps * strength)
    image = picture()["image_latents"]
    ours = sampler(noise, image_latents=image, **adp.encode_prompt(pipe, ["a", "b"]))
    theirs = stock(pipe, noise, steps, prompt=["a", "b"], image=image, strength=strength)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_rounded_timesteps(pipe, noise):
    """With Karras sigmas the start is at a sigma that belongs to no whole timestep."""
    scheduler = DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, use_karras_sigmas=True
    )
    other = type(pipe)(**{**pipe.components, "scheduler": scheduler}, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    image = picture()["image_latents"]
    sampler, _ = adp.from_pipeline(other, 9, strength=0.5)
    ours = sampler(noise, image_latents=image, **adp.encode_prompt(pipe, ["a", "b"]))
    theirs = stock(other, noise, 9, prompt=["a", "b"], image=image, strength=0.5)
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_default_strength_is_the_pipelines(pipe):
    sampler, _ = adp.from_pipeline(pipe, 10)
    assert sampler.plan.num_calls == 8


def test_refiner(tmp_path, noise):
    parts = components(
        tmp_path, cross_attention_dim=16, projection_class_embeddings_input_dim=5 * 4 + 16
    )
    parts.update(text_encoder=None, tokenizer=None)
    pipe = StableDiffusionXLImg2ImgPipeline(**parts, requires_aesthetics_score=True)
    pipe.set_progress_bar_config(disable=True)
    sampler, _ = adp.from_pipeline(pipe, 4, 3.0, strength=0.5)
    image = picture()["image_latents"]
    with torch.no_grad():
        cond = adp.encode_prompt(pipe, ["a", "b"], aesthetic_score=5.5)
        ours = sampler(noise, image_latents=image, **cond)
    theirs = stock(
        pipe, noise, 4, prompt=["a", "b"], image=image, strength=0.5, guidance_scale=3.0,
        aesthetic_score=5.5,
    )  # fmt: skip
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_any_family_with_strength(tmp_path):
    """Flow matching: the start is (1 - sigma) of the picture and sigma of the noise."""
    pipe = build_sd3(tmp_path)
    sampler, _ = adp.from_pipeline(pipe, 4, 1.0, strength=0.5)
    assert isinstance(pipe.scheduler, FlowMatchEulerDiscreteScheduler)
    time = sampler.plan.timesteps[0] / 1000
    assert sampler.start == pytest.approx((1 - time, time))
    noise = torch.randn(adp.latent_shape(pipe))
    cond = adp.encode_prompt(pipe, "a", guidance=False)
    shorter = adp.Sampler(sampler.denoiser, sampler.plan)
    image = torch.randn_like(noise)
    expected = shorter((1 - time) * image + time * noise, **cond)
    torch.testing.assert_close(sampler(noise, image_latents=image, **cond), expected)


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "heun"])
def test_own_plan(pipe, noise, name):
    """The picture is noised to the plan's first time."""
    schedule = adp.Schedule.from_config(pipe.scheduler.config)
    plan = adp.solvers.build(
        name, schedule, 3, timesteps=[500.0, 300.0, 100.0], prediction_type="sample"
    )
    image = picture()["image_latents"]
    network = adp.Denoiser(lambda x, t, answer: answer, schedule, "sample")
    sampler = adp.ImageToImageSampler(network, plan)
    alpha, sigma = schedule.alpha(500.0), schedule.sigma(500.0)
    first = []
    network.register_forward_hook(lambda module, inputs, output: first.append(inputs[0]))
    sampler(noise, image_latents=image, answer=image)
    torch.testing.assert_close(first[0], alpha * image + sigma * noise)


def test_own_plan_of_a_pipeline(pipe, noise):
    schedule = adp.Schedule.from_config(pipe.scheduler.config)
    plan = adp.solvers.build("ddim", schedule, 2, timesteps=[500.0, 200.0])
    sampler, _ = adp.from_pipeline(pipe, plan=plan, guidance_scale=1.0)
    assert isinstance(sampler, adp.ImageToImageSampler)
    cond = adp.encode_prompt(pipe, ["a", "b"], guidance=False)
    assert sampler(noise, **picture(), **cond).isfinite().all()
    with pytest.raises(ValueError, match="starts where its first timestep is"):
        adp.from_pipeline(pipe, plan=plan, strength=STRENGTH)


def test_certificate(pipe, noise):
    sampler, _ = adp.from_pipeline(pipe, 4, 1.0, strength=0.5)
    image = picture()["image_latents"].requires_grad_()
    cond = adp.encode_prompt(pipe, ["a", "b"], guidance=False)
    certificate = adp.certify(sampler, noise, torch.sum, image_latents=image, **cond)
    assert {target.name for target in certificate.targets} >= {"noise", "image_latents"}
    assert all(target.relative_error == 0 for target in certificate.targets)


@pytest.mark.parametrize("gradient", [adp.Backprop(), adp.Truncated(2), adp.ContinuousAdjoint()])
def test_gradient_methods(pipe, noise, gradient):
    """All of them reach the picture by way of the first latent, save one that is cut before it."""
    image = picture()["image_latents"].requires_grad_()
    cond = adp.encode_prompt(pipe, ["a", "b"], guidance=False)
    gradients = []
    for method in (adp.Exact(), gradient):
        sampler, _ = adp.from_pipeline(pipe, 20, 1.0, strength=0.5, gradient=method)
        sample = sampler(noise, image_latents=image, **cond)
        (found,) = torch.autograd.grad(
            sample.square().sum(), image, allow_unused=True, materialize_grads=True
        )
        gradients.append(found.flatten())
    if isinstance(gradient, adp.Truncated):
        assert not gradients[1].any()
        return
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99
    if isinstance(gradient, adp.Backprop):
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_encoding(pipe):
    image = torch.rand(2, 3, 16, 16, requires_grad=True)
    latents = adp.encode_image(pipe, image)
    assert latents.shape == adp.latent_shape(pipe, 2)
    posterior = pipe.vae.encode(pipe.image_processor.preprocess(image)).latent_dist
    torch.testing.assert_close(latents, pipe.vae.config.scaling_factor * posterior.mode())
    assert torch.autograd.grad(latents.sum(), image)[0].any()


def test_encoding_with_mean_and_deviation(tmp_path):
    from families_stable_diffusion_xl import build_shifted

    pipe = build_shifted(tmp_path)
    _, decode = adp.from_pipeline(pipe, 2)
    latents = adp.encode_image(pipe, torch.rand(1, 3, 16, 16))
    unscaled = latents / decode.scaling_factor.float() + decode.shift_factor.float()
    pictures = pipe.vae.decode(unscaled).sample * 0.5 + 0.5
    torch.testing.assert_close(decode(latents, clamp="none"), pictures)


@pytest.mark.parametrize("strength", [0.0, 1.5, 0.1])
def test_strengths_that_are_refused(pipe, strength):
    with pytest.raises(ValueError, match="strength"):
        adp.from_pipeline(pipe, 4, strength=strength)


def test_pictures_for_latents_are_refused(pipe, noise):
    sampler, _ = adp.from_pipeline(pipe, 4)
    with pytest.raises(ValueError, match="encode_image"):
        sampler(noise, image_latents=torch.rand(2, 3, 16, 16))
