"""What is special to single families with a UNet, beyond the generic tests."""

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler
from families_animatediff import build as build_animatediff
from families_kandinsky import build as build_kandinsky
from families_kandinsky import embeds
from families_latent_diffusion import build as build_latent_diffusion
from families_pixel import build_ddim, build_unet
from families_stable_diffusion_xl import build as build_xl

import adjointdpm as adp


def test_the_clipping_of_ddim_is_refused():
    pipe = DDIMPipeline(build_unet(), DDIMScheduler(clip_sample=True))
    with pytest.raises(ValueError, match="clip_sample=False"):
        adp.from_pipeline(pipe, 4)
    # The advice that comes with it.
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    sampler, _ = adp.from_pipeline(pipe, 4, scheduler=scheduler)
    assert not sampler.denoiser.clip_sample


def test_ddpm_clips_in_the_denoiser():
    pipe = DDPMPipeline(build_unet(), DDPMScheduler(clip_sample=True))
    sampler, decode = adp.from_pipeline(pipe, 4)
    assert sampler.denoiser.clip_sample
    sample = sampler(torch.randn(2, 3, 8, 8))
    assert sample.abs().max() <= 1 + 1e-6
    torch.testing.assert_close(decode(sample), sample / 2 + 0.5)


def test_class_labels():
    pipe = DDPMPipeline(build_unet(num_class_embeds=3), DDPMScheduler(clip_sample=False))
    sampler, _ = adp.from_pipeline(pipe, 2)
    noise = torch.randn(2, 3, 8, 8, requires_grad=True)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    one, other = (
        sampler(noise, generator=generator, class_labels=torch.tensor(labels))
        for generator, labels in zip(generators, ([0, 1], [0, 2]), strict=True)
    )
    torch.testing.assert_close(one[0], other[0])
    assert not torch.allclose(one[1], other[1])
    assert torch.autograd.grad(one.sum(), noise)[0].any()


def test_pictures_are_their_own_latents(tmp_path):
    pipe = build_ddim(tmp_path)
    picture = torch.rand(1, 3, 8, 8)
    sampler, decode = adp.from_pipeline(pipe, 4, strength=0.5)
    latents = adp.encode_image(pipe, picture)
    torch.testing.assert_close(decode(latents), picture)
    assert sampler(torch.randn(1, 3, 8, 8), image_latents=latents).shape == latents.shape


def test_no_prompt_for_unconditional_models(tmp_path):
    with pytest.raises(ValueError, match="takes no prompt"):
        adp.encode_prompt(build_ddim(tmp_path), "a")


def test_negative_prompt_of_latent_diffusion(tmp_path):
    pipe = build_latent_diffusion(tmp_path)
    cond = adp.encode_prompt(pipe, ["a", "b"], "c")
    expected = adp.encode_prompt(pipe, ["c", "c"], guidance=False)["encoder_hidden_states"]
    torch.testing.assert_close(cond["negative_encoder_hidden_states"], expected)


def test_straight_through_the_quantisation(tmp_path):
    """Quantised latents have the gradient of latents that are not."""
    _, decode = adp.from_pipeline(build_latent_diffusion(tmp_path), 2)
    latents = torch.randn(1, 4, 2, 2, requires_grad=True)
    assert torch.autograd.grad(decode(latents).sum(), latents)[0].any()


def test_a_learned_variance_is_refused(tmp_path):
    pipe = build_kandinsky(tmp_path)
    learned = DDPMScheduler.from_config(pipe.scheduler.config, variance_type="learned_range")
    with pytest.raises(ValueError, match="variance_type='fixed_small'"):
        adp.from_pipeline(pipe, 4, scheduler=learned)
    scheduler = DDIMScheduler.from_config(learned.config)
    sampler, _ = adp.from_pipeline(pipe, 4, 3.0, scheduler=scheduler)
    noise = torch.randn(adp.latent_shape(pipe, 2, height=16, width=16))
    assert sampler(noise, **adp.encode_prompt(pipe, embeds(1), embeds(2))).isfinite().all()


@pytest.mark.parametrize("arguments", [("a",), (embeds(1),)], ids=["words", "no negative"])
def test_what_is_no_embedding_is_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match="KandinskyV22PriorPipeline"):
        adp.encode_prompt(build_kandinsky(tmp_path), *arguments)


def test_default_sizes(tmp_path):
    assert adp.latent_shape(build_kandinsky(tmp_path), 2) == (2, 4, 256, 256)
    (tmp_path / "clip").mkdir()
    assert adp.latent_shape(build_animatediff(tmp_path / "clip"), 2) == (2, 4, 16, 8, 8)


def test_free_noise_is_refused(tmp_path):
    pipe = build_animatediff(tmp_path)
    pipe.enable_free_init()
    with pytest.raises(ValueError, match="disable_free_init"):
        adp.from_pipeline(pipe, 2)
    pipe.disable_free_init()
    pipe.enable_free_noise(context_length=2, context_stride=1)
    with pytest.raises(ValueError, match="disable_free_noise"):
        adp.from_pipeline(pipe, 2)


def test_an_autoencoder_that_would_overflow_is_refused(tmp_path):
    pipe = build_xl(tmp_path).to(torch.float16)
    pipe.vae.register_to_config(force_upcast=True)
    with pytest.raises(ValueError, match=r"pipe\.vae\.to\(torch\.float32\)"):
        adp.from_pipeline(pipe, 2)
    pipe.vae.to(torch.float32)
    adp.from_pipeline(pipe, 2)
