"""What is special to videos: sizes, guidance in two stages, the gradient through the decoder."""

import copy

import families_video
import pytest
import torch
from comparison import assert_same, assert_same_gradients, gradients, unrounded
from diffusers import CogVideoXDDIMScheduler, DDIMScheduler
from families_video import build_cogvideox, build_ltx, build_wan
from test_families import cond_of, noise_of, run_stock, sampler_of

import adjointdpm as adp

BUILDERS = {"wan": build_wan, "ltx": build_ltx, "cogvideox": build_cogvideox}
CASES = {case.name: case for case in families_video.CASES}


@pytest.fixture(scope="module")
def pipes():
    torch.manual_seed(0)
    return {name: build(None) for name, build in BUILDERS.items()}


def stock_decode(pipe, name, latents):
    """The autoencoder's own video of latents, as the stock pipelines call it."""
    if name == "cogvideox":
        video = pipe.decode_latents(latents)
    else:
        config = pipe.vae.config
        statistics, scaling_factor = (
            ((pipe.vae.latents_mean, pipe.vae.latents_std), config.scaling_factor)
            if name == "ltx"
            else ((config.latents_mean, config.latents_std), 1)
        )
        mean, std = (
            torch.as_tensor(s, dtype=latents.dtype).reshape(1, -1, 1, 1, 1) for s in statistics
        )
        video = pipe.vae.decode(latents * std / scaling_factor + mean, return_dict=False)[0]
    return (video.transpose(1, 2) * 0.5 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("name", BUILDERS)
def test_gradient_through_the_decoder_is_that_of_the_autoencoder(pipes, name):
    pipe = copy.copy(pipes[name])
    pipe.vae = copy.deepcopy(pipe.vae).double()
    for module in pipe.vae.modules():
        module.forward = unrounded(module.forward)
    size = {"height": 32, "width": 32, "num_frames": 9}
    shape = adp.latent_shape(pipe, 2, **size)
    latents = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    _, decode = adp.from_pipeline(pipe, 2, **size)
    expected = stock_decode(pipe, name, latents)
    video = decode(latents, clamp="hard")
    assert video.shape == (2, 9, 3, 32, 32)
    assert_same(video, expected, 1e-12)
    assert_same_gradients(gradients(video, [latents]), gradients(expected, [latents]), 1e-12)


def test_videos_do_not_depend_on_what_was_decoded_before(pipes):
    """The caches of causal convolutions are emptied, also after a decoding that failed."""
    pipe = pipes["wan"]
    size = {"height": 16, "width": 16, "num_frames": 9}
    _, decode = adp.from_pipeline(pipe, 2, **size)
    first, second = torch.randn(2, *adp.latent_shape(pipe, **size), requires_grad=True)

    def gradient_of(latents):
        return torch.autograd.grad(decode(latents).square().sum(), latents)[0]

    expected = gradient_of(first)
    assert all(cache is None for cache in pipe.vae._feat_map)
    with pytest.raises(RuntimeError):
        decode(second[:, :2])
    # The two graphs are alive at once.
    videos = [decode(latents).square().sum() for latents in (first, second)]
    found = torch.autograd.grad(sum(videos), (first, second))
    assert_same(found[0], expected, 1e-6)
    assert_same(found[1], gradient_of(second), 1e-6)


def test_saturated_frames_of_wan_get_a_gradient(pipes):
    """Its autoencoder clamps too, which must not undo the straight-through clamp."""
    pipe = pipes["wan"]
    size = {"height": 16, "width": 16, "num_frames": 1}
    _, decode = adp.from_pipeline(pipe, 2, **size)
    latents = 1e3 * torch.ones(adp.latent_shape(pipe, **size))
    pipe.vae.decoder.conv_out.bias.data += 10.0
    try:
        video = decode(latents.requires_grad_())
        (gradient,) = torch.autograd.grad(video.mean(), latents)
        (hard,) = torch.autograd.grad(decode(latents, clamp="hard").mean(), latents)
    finally:
        pipe.vae.decoder.conv_out.bias.data -= 10.0
    assert (video == 1).all()
    assert gradient.any()
    assert not hard.any()


@pytest.mark.parametrize(
    ("name", "num_frames", "expected"),
    [
        ("wan", 1, 1),
        ("wan", 5, 2),
        ("wan", 6, 2),
        ("wan", 8, 3),  # the pipeline makes it nine frames
        ("ltx", 1, 1),
        ("ltx", 5, 2),
        ("ltx", 8, 2),
        ("cogvideox", 1, 1),
        ("cogvideox", 9, 3),
    ],
)
def test_latent_frames(pipes, name, num_frames, expected):
    pipe = pipes[name]
    axis = 1 if name == "cogvideox" else 2
    shape = adp.latent_shape(pipe, height=32, width=64, num_frames=num_frames)
    assert shape[axis] == expected
    assert shape == stock_shape(pipe, name, num_frames)


def stock_shape(pipe, name, num_frames):
    """The shape of the latents that the stock pipeline makes itself."""
    shapes = []

    def stop(*args, latents=None, **kwargs):
        result = type(pipe).prepare_latents(pipe, *args, **kwargs)
        shapes.append(result.shape)
        raise InterruptedError

    embeds = torch.zeros(1, 4, 16)
    arguments = {"prompt_embeds": embeds, "height": 32, "width": 64, "num_frames": num_frames}
    if name == "ltx":
        arguments["prompt_attention_mask"] = torch.ones(1, 4, dtype=torch.bool)
    pipe.prepare_latents = stop
    try:
        pipe(**arguments, num_inference_steps=2, guidance_scale=1.0)
    except InterruptedError:
        pass
    finally:
        del pipe.prepare_latents
    if name == "ltx":
        batch, tokens, channels = shapes[0]
        return batch, channels, tokens // (4 * 8), 4, 8
    return tuple(shapes[0])


def test_default_sizes_are_those_of_the_call():
    torch.manual_seed(0)
    assert adp.latent_shape(build_wan(None)) == (1, 4, 21, 60, 104)
    assert adp.latent_shape(build_ltx(None)) == (1, 4, 41, 64, 88)
    assert adp.latent_shape(build_cogvideox(None)) == (1, 3, 4, 2, 4)


@pytest.mark.parametrize("scale_2", [None, 1.5, 0.0])
@pytest.mark.parametrize("passes", ["batched", "sequential"])
def test_guidance_of_the_second_transformer(scale_2, passes):
    torch.manual_seed(0)
    case = CASES["Wan 2.2 (two transformers)"]
    pipe = case.build(None)
    noise, cond = noise_of(pipe, case), cond_of(pipe, case)
    sampler, _ = sampler_of(pipe, case, guidance_scale_2=scale_2, guidance_passes=passes)
    arguments = {**case.stock(pipe, noise, cond), "guidance_scale_2": scale_2}
    called = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in (("1", pipe.transformer), ("2", pipe.transformer_2))
    ]
    with torch.no_grad():
        assert_same(sampler(noise, **cond), run_stock(pipe, case, arguments), 1e-5)
    for handle in handles:
        handle.remove()
    assert set(called) == {"1", "2"}


def test_a_second_guidance_scale_needs_a_second_transformer(pipes):
    for pipe in pipes.values():
        size = {"height": 32, "width": 32, "num_frames": 1}
        with pytest.raises(ValueError, match="guidance_scale_2"):
            adp.from_pipeline(pipe, 2, 5.0, guidance_scale_2=4.0, **size)


def test_times_on_both_sides_of_the_boundary_are_refused():
    torch.manual_seed(0)
    case = CASES["Wan 2.2 (two transformers)"]
    pipe = case.build(None)
    sampler, _ = sampler_of(pipe, case, guidance_scale_2=2.0)
    with pytest.raises(ValueError, match="both sides of 800"):
        sampler.denoiser(noise_of(pipe, case), torch.tensor([900.0, 10.0]), **cond_of(pipe, case))


def test_wan_in_half_precision_has_weights_in_float32(tmp_path):
    torch.manual_seed(0)
    case = CASES["Wan 2.1"]
    pipe = case.build(None)
    pipe.transformer.save_pretrained(tmp_path)
    pipe.transformer = type(pipe.transformer).from_pretrained(tmp_path, dtype=torch.bfloat16)
    pipe.transformer.requires_grad_(False)
    assert next(pipe.transformer.parameters()).dtype == torch.float32
    noise, cond = noise_of(pipe, case), cond_of(pipe, case)
    sampler, _ = sampler_of(pipe, case, guidance_passes="sequential")
    embeds = cond["encoder_hidden_states"].requires_grad_()
    sample = sampler(noise, **cond)
    (gradient,) = torch.autograd.grad(sample.square().sum(), embeds)
    assert gradient.any()
    with torch.no_grad():
        assert_same(sample, run_stock(pipe, case, case.stock(pipe, noise, cond)), 1e-2)


def test_frame_rate_of_ltx(pipes):
    pipe, case = pipes["ltx"], CASES["LTX-Video"]
    noise, cond = noise_of(pipe, case), cond_of(pipe, case)
    sampler, _ = sampler_of(pipe, case)
    arguments = {**case.stock(pipe, noise, cond), "frame_rate": 10}
    with torch.no_grad():
        sample = sampler(noise, **cond, frame_rate=10)
        assert_same(sample, run_stock(pipe, case, arguments), 1e-5)
        assert not torch.equal(sample, sampler(noise, **cond))


def test_noise_of_the_denoising_decoder():
    torch.manual_seed(0)
    case = CASES["LTX-Video (denoising decoder)"]
    pipe = case.build(None)
    noise, cond = noise_of(pipe, case), cond_of(pipe, case)
    sampler, decode = sampler_of(pipe, case)
    decode.decode_seed = 5
    for timestep, scale in ((0.05, 0.025), (0.3, None)):
        decode.decode_timestep, decode.decode_noise_scale = timestep, scale
        arguments = {"decode_timestep": timestep, "decode_noise_scale": scale}
        arguments |= case.stock(pipe, noise, cond)
        with torch.no_grad():
            expected = run_stock(pipe, case, arguments, output_type="pt")
            assert_same(decode(sampler(noise, **cond)), expected, 1e-5)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_schedule_of_cogvideox(zero_snr):
    scheduler = CogVideoXDDIMScheduler(rescale_betas_zero_snr=zero_snr)
    schedule = adp.Schedule.from_config(scheduler.config)
    alphas = schedule.alpha(torch.arange(1000.0))
    torch.testing.assert_close(alphas, scheduler.alphas_cumprod.sqrt(), rtol=1e-4, atol=1e-5)
    # A scheduler that knows nothing of the shift may carry the entry along.
    config = {**scheduler.config, "_class_name": "DDIMScheduler"}
    plain = adp.Schedule.from_config(DDIMScheduler(rescale_betas_zero_snr=zero_snr).config)
    other = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
    assert adp.Schedule.from_config({**config, **other}).ratio(500.0) == plain.ratio(500.0)
