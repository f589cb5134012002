"""A sampler made of a pipeline is that pipeline, and its gradient is autograd's through it."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    IPNDMScheduler,
    StableDiffusionPipeline,
)
from tiny_pipeline import build_pipeline

import adjointdpm as adp
from adjointdpm.decoding.decoder import to_unit_range

PROMPTS = ["a b", "c"]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return build_pipeline(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def noise():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def restored(pipe, scheduler):
    """The pipeline with another scheduler, sharing its modules."""
    return StableDiffusionPipeline(
        **{**pipe.components, "scheduler": scheduler}, requires_safety_checker=False
    )


def assert_same(ours, theirs, tolerance=1e-5):
    """Equal to a share of the largest value: schedulers keep their sigmas in float32."""
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert error < tolerance


def run(pipe, noise, gradient=False, **arguments):
    call = StableDiffusionPipeline.__call__
    call = call.__wrapped__ if gradient else call
    return call(pipe, latents=noise, num_inference_steps=4, **arguments).images


@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("guidance_rescale", [0.0, 0.7])
def test_same_latents_as_the_pipeline(pipe, noise, guidance_scale, guidance_rescale):
    settings = {"guidance_scale": guidance_scale, "guidance_rescale": guidance_rescale}
    sampler, decode = adp.from_pipeline(pipe, 4, **settings)
    cond = adp.encode_prompt(pipe, PROMPTS, guidance=guidance_scale > 1)
    latents = sampler(noise, **cond)
    expected = run(pipe, noise, prompt=PROMPTS, output_type="latent", **settings)
    assert_same(latents, expected)
    pictures = run(pipe, noise, prompt=PROMPTS, output_type="pt", **settings)
    torch.testing.assert_close(decode(latents), pictures, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "scheduler",
    [
        EulerDiscreteScheduler(steps_offset=1),
        EulerAncestralDiscreteScheduler(steps_offset=1),
        DDIMScheduler(clip_sample=False, steps_offset=1),
        DPMSolverMultistepScheduler(thresholding=True, sample_max_value=2.0, steps_offset=1),
        DPMSolverMultistepScheduler(
            algorithm_type="dpmsolver", final_sigmas_type="sigma_min", thresholding=True,
            steps_offset=1,
        ),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)  # fmt: skip
def test_other_schedulers(pipe, noise, scheduler):
    other = restored(pipe, scheduler)
    sampler, _ = adp.from_pipeline(pipe, 4, 3.0, scheduler=scheduler)
    latents = sampler(
        noise, generator=torch.Generator().manual_seed(5), **adp.encode_prompt(pipe, PROMPTS)
    )
    expected = run(
        other, noise, prompt=PROMPTS, guidance_scale=3.0, output_type="latent",
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip
    assert_same(latents, expected, 1e-4)


def test_what_a_run_with_gradients_left_in_the_scheduler_is_no_obstacle(pipe, noise):
    used = restored(pipe, DPMSolverMultistepScheduler(steps_offset=1))
    before = from_pipeline_latents(used, noise)
    words = used.encode_prompt(PROMPTS, "cpu", 1, False)[0].detach().requires_grad_()
    run(used, noise, gradient=True, prompt_embeds=words, guidance_scale=1.0, output_type="latent")
    assert any(not output.is_leaf for output in used.scheduler.model_outputs)
    assert torch.equal(from_pipeline_latents(used, noise), before)
    assert any(not output.is_leaf for output in used.scheduler.model_outputs)  # left as it was


def from_pipeline_latents(pipe, noise):
    sampler, _ = adp.from_pipeline(pipe, 4, 1.0)
    return sampler(noise, **adp.encode_prompt(pipe, PROMPTS, guidance=False)).detach()


def test_clipping_goes_to_the_denoiser(pipe, noise):
    # The constructor of the pipeline turns clip_sample off, so it is put in afterwards.
    scheduler = DDPMScheduler(clip_sample=True, clip_sample_range=0.5, steps_offset=1)
    sampler, _ = adp.from_pipeline(pipe, 4, 3.0, scheduler=scheduler)
    assert sampler.denoiser.clip_sample
    other = restored(pipe, DDIMScheduler(clip_sample=False, steps_offset=1))
    other.scheduler = scheduler
    expected = run(
        other, noise, prompt=PROMPTS, guidance_scale=3.0, output_type="latent",
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip
    latents = sampler(
        noise, generator=torch.Generator().manual_seed(5), **adp.encode_prompt(pipe, PROMPTS)
    )
    assert_same(latents, expected, 1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("clipping", ["clip_sample", "thresholding"])
def test_clipping_that_no_denoiser_can_do_is_refused(pipe, prediction_type, clipping):
    settings = {"clip_sample": False, clipping: True, "prediction_type": prediction_type}
    with pytest.raises(ValueError, match="does not take the noise from the clipped"):
        adp.from_pipeline(pipe, 4, scheduler=DDIMScheduler(**settings))


@pytest.mark.parametrize(
    ("prompt", "message"), [([], "empty: give one for each"), (None, "pass a prompt")]
)
def test_no_prompt_is_told(pipe, prompt, message):
    with pytest.raises(ValueError, match=message):
        adp.encode_prompt(pipe, prompt)


def test_prompts_in_a_tuple_are_those_of_a_list(pipe):
    ours = adp.encode_prompt(pipe, ("a", "b"), ("c", "d"))
    torch.testing.assert_close(ours, adp.encode_prompt(pipe, ["a", "b"], ["c", "d"]))


@pytest.mark.parametrize("steps", [2.5, "3"])
def test_steps_are_whole_numbers(pipe, steps):
    with pytest.raises(TypeError, match="num_inference_steps must be a whole number"):
        adp.from_pipeline(pipe, steps)


def test_a_scheduler_that_does_not_say_what_is_predicted_is_refused(pipe):
    with pytest.raises(ValueError, match="config of IPNDMScheduler says what its network predicts"):
        adp.from_pipeline(pipe, 4, scheduler=IPNDMScheduler())


def test_gradient_is_autograds_through_the_pipeline(pipe, noise):
    cond = adp.encode_prompt(pipe, PROMPTS)
    positive, negative = (value.requires_grad_() for value in cond.values())
    noise.requires_grad_()
    sampler, decode = adp.from_pipeline(pipe, 4, 3.0)
    weights = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))

    pictures = decode(sampler(noise, **cond), clamp="hard")
    ours = torch.autograd.grad((pictures * weights).sum(), [noise, positive, negative])
    pictures = run(
        pipe, noise, gradient=True, prompt_embeds=positive, negative_prompt_embeds=negative,
        guidance_scale=3.0, output_type="pt",
    )  # fmt: skip
    expected = torch.autograd.grad((pictures * weights).sum(), [noise, positive, negative])
    for mine, theirs in zip(ours, expected, strict=True):
        assert_same(mine, theirs)


def test_embedded_guidance(tmp_path, noise):
    pipe = build_pipeline(tmp_path, time_cond_proj_dim=8)
    sampler, _ = adp.from_pipeline(pipe, 4, 5.0)
    latents = sampler(noise, **adp.encode_prompt(pipe, PROMPTS, guidance=False))
    expected = run(pipe, noise, prompt=PROMPTS, guidance_scale=5.0, output_type="latent")
    assert_same(latents, expected)


def test_half_precision_weights(tmp_path, noise):
    pipe = build_pipeline(tmp_path).to(torch.bfloat16)
    sampler, decode = adp.from_pipeline(pipe, 2, 3.0)
    noise.requires_grad_()
    pictures = decode(sampler(noise, **adp.encode_prompt(pipe, PROMPTS)))
    assert pictures.dtype == torch.float32
    pictures.sum().backward()
    assert noise.grad.dtype == torch.float32
    assert noise.grad.isfinite().all()


def test_own_plan(pipe, noise):
    schedule = adp.Schedule.from_config(pipe.scheduler.config)
    plan = adp.solvers.build("heun", schedule, 3, prediction_type="v_prediction")
    sampler, _ = adp.from_pipeline(pipe, plan=plan, guidance_scale=2.0)
    assert sampler.plan is plan
    assert sampler(noise, **adp.encode_prompt(pipe, PROMPTS)).isfinite().all()


def test_unknown_pipeline_names_what_is_known():
    known = r"int has no adapter; known are .*StableDiffusionPipeline"
    with pytest.raises(ValueError, match=known):
        adp.from_pipeline(3)


def test_subclass_that_samples_alike(pipe):
    class WithLogging(StableDiffusionPipeline):
        pass

    class WithOtherSampling(StableDiffusionPipeline):
        def __call__(self, *args, **kwargs):
            return None

    parts = {**pipe.components, "requires_safety_checker": False}
    assert adp.latent_shape(WithLogging(**parts)) == adp.latent_shape(pipe)
    with pytest.raises(ValueError, match="WithOtherSampling has no adapter"):
        adp.from_pipeline(WithOtherSampling(**parts))


def test_prompt_without_guidance(pipe):
    assert list(adp.encode_prompt(pipe, "a", guidance=False)) == ["encoder_hidden_states"]
    cond = adp.encode_prompt(pipe, "a", negative_prompt="b")
    expected = adp.encode_prompt(pipe, "b", guidance=False)["encoder_hidden_states"]
    torch.testing.assert_close(cond["negative_encoder_hidden_states"], expected)


def test_clamps():
    values = torch.tensor([-3.0, 0.0, 3.0])
    for clamp, picture, gradient in [
        ("straight_through", [0, 0.5, 1], [0.5, 0.5, 0.5]),
        ("hard", [0, 0.5, 1], [0, 0.5, 0]),
        ("none", [-1, 0.5, 2], [0.5, 0.5, 0.5]),
    ]:
        leaf = values.clone().requires_grad_()
        result = to_unit_range(leaf, clamp)
        assert result.tolist() == picture
        assert torch.autograd.grad(result.sum(), leaf)[0].tolist() == gradient
    with pytest.raises(ValueError, match="clamp must be one of"):
        to_unit_range(values, "soft")
