"""Decoding with bounded memory has the gradient of a plain decode, and takes what it predicts."""

import functools

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    AutoencoderTiny,
)

from adjointdpm.decoding.bounded import blocks
from adjointdpm.decoding.decoder import Decoder
from adjointdpm.memory.measure import peak_bytes

FOUR = (8, 8, 8, 8)


def build_kl():
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
    )


def build_tiny():
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 2),
        num_decoder_blocks=(2, 1),
    )


def build_dc():
    types = ("ResBlock", "EfficientViTBlock")
    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=types,
        decoder_block_types=types,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 2),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
    )


def build_wan():
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )


def build_cogvideox():
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=FOUR,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )


def build_ltx():
    return AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=FOUR,
        decoder_block_out_channels=FOUR,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        patch_size=1,
        timestep_conditioning=True,
    )


SHAPES = {
    build_kl: (3, 4, 8, 8),
    build_tiny: (3, 4, 8, 8),
    build_dc: (3, 4, 8, 8),
    build_wan: (1, 4, 2, 2, 4),
    build_cogvideox: (1, 4, 4, 2, 4),
    build_ltx: (2, 8, 2, 4, 4),
}
TILES = {build_kl: (), build_dc: (8, 8, 6, 6), build_wan: (16, 16, 8, 8)}
SETTINGS = [{}, {"slice_size": 2}, {"slice_size": None}, {"checkpoint_blocks": False}]


def prepare(build, dtype=torch.float64, tiles=False):
    vae = build().to(dtype).eval()
    if tiles:
        vae.enable_tiling(*TILES[build])
        if build is build_kl:
            vae.tile_latent_min_size, vae.tile_sample_min_size = 4, 8
    latents = torch.randn(SHAPES[build], dtype=dtype).requires_grad_()
    return vae, latents


def plain_decode(vae, latents):
    time = [latents.new_full((len(latents),), 0.05)] if needs_time(vae) else []
    return vae.decode(latents, *time, return_dict=False)[0].to(latents.dtype) * 0.5 + 0.5


def needs_time(vae):
    return vae.config.get("timestep_conditioning", False)


class WithTime(Decoder):
    def decode(self, latents):
        time = latents.new_full((len(latents),), 0.05)
        return self.vae.decode(latents, time, return_dict=False)[0]


def decoder(vae, **settings):
    return (WithTime if needs_time(vae) else Decoder)(vae, clamp="none", **settings)


def gradient(vae, latents, pictures):
    # Not randn_like, which would follow the memory order of a batch.
    weights = torch.randn(
        pictures.shape, dtype=pictures.dtype, generator=torch.Generator().manual_seed(1)
    )
    targets = [latents, *vae.decoder.parameters()]
    return torch.autograd.grad((pictures * weights).sum(), targets, allow_unused=True)


def assert_same(ours, theirs, tolerance):
    scale = max(g.abs().max() for g in theirs if g is not None)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine is None) == (other is None)
        assert mine is None or (mine - other).abs().max() <= tolerance * scale


@functools.cache
def plainly_decoded(build):
    """An autoencoder, latents, their pictures, and the gradient of these."""
    torch.manual_seed(0)
    vae, latents = prepare(build)
    pictures = plain_decode(vae, latents)
    return vae, latents, pictures.detach(), gradient(vae, latents, pictures)


@pytest.mark.parametrize("build", SHAPES)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_gradient_of_a_plain_decode(build, settings):
    vae, latents, expected, theirs = plainly_decoded(build)
    pictures = decoder(vae, **settings)(latents)
    torch.testing.assert_close(pictures, expected, rtol=0, atol=1e-12)
    assert_same(gradient(vae, latents, pictures), theirs, 1e-12)


@pytest.mark.parametrize("build", TILES)
def test_gradient_through_tiles(build):
    vae, latents = prepare(build, tiles=True)
    calls = []
    vae.decoder.register_forward_hook(lambda *_: calls.append(1))
    expected = plain_decode(vae, latents)
    assert len(calls) > 1
    theirs = gradient(vae, latents, expected)
    for settings in SETTINGS[::2]:
        pictures = decoder(vae, **settings)(latents)
        torch.testing.assert_close(pictures, expected, rtol=0, atol=1e-12)
        assert_same(gradient(vae, latents, pictures), theirs, 1e-12)


def test_float32():
    vae, latents = prepare(build_kl, torch.float32)
    expected = gradient(vae, latents, plain_decode(vae, latents))
    assert_same(gradient(vae, latents, decoder(vae)(latents)), expected, 5e-6)


@pytest.mark.parametrize("build", SHAPES)
def test_every_decoder_has_blocks(build):
    names = {type(block).__name__ for block in blocks(build().decoder)}
    assert any("Res" in name or "TinyBlock" in name for name in names)
    assert not names & {"ModuleList", "Sequential"}


def peak(vae, latents, decode):
    def run():
        pictures = decode(latents)
        torch.autograd.grad(pictures, latents, torch.ones_like(pictures))

    return peak_bytes(run)


def test_memory_grows_with_pictures_only():
    vae, _ = prepare(build_kl)
    vae.requires_grad_(False)
    decode = decoder(vae)
    small, large = (torch.randn(n, 4, 8, 8, dtype=torch.float64).requires_grad_() for n in (1, 4))
    picture = 3 * 16 * 16 * 8
    growth = peak(vae, large, decode) - peak(vae, small, decode)
    # Slices, their concatenation, its rescaling, the adjoints of these, and latents.
    assert growth <= 7 * 3 * picture
    assert peak(vae, large, decode) < peak(vae, large, lambda z: plain_decode(vae, z)) / 3


def test_memory_of_tiles():
    vae, latents = prepare(build_kl, tiles=True)
    vae.requires_grad_(False)
    latents = latents[:1].detach().requires_grad_()
    plainly = peak(vae, latents, lambda z: plain_decode(vae, z))
    assert peak(vae, latents, decoder(vae)) < plainly / 4


@pytest.mark.parametrize(
    ("build", "settings"),
    [(build_kl, {}), (build_dc, {"checkpoint_blocks": False}), (build_cogvideox, {})],
)
def test_predicted_cost(build, settings):
    vae, latents = prepare(build, torch.float32)
    vae.requires_grad_(False)
    decode = decoder(vae, **settings)
    cost = decode.cost(latents)
    assert cost.peak_memory == pytest.approx(peak(vae, latents, decode), rel=0.02)
    assert cost.picture_bytes < cost.forward_memory <= cost.peak_memory
    assert cost.picture_bytes == decode(latents).nbytes


def test_the_autoencoder_is_left_as_it_was():
    vae, latents = prepare(build_kl)
    types = [type(module) for module in vae.modules()]
    with pytest.raises(RuntimeError):
        decoder(vae)(latents[:, :2])
    pictures = decoder(vae)(latents)
    pictures.sum().backward()
    assert [type(module) for module in vae.modules()] == types


def test_weights_changed_before_the_backward_pass():
    vae, latents = prepare(build_kl)
    pictures = decoder(vae)(latents)
    with torch.no_grad():
        next(vae.decoder.mid_block.resnets[0].parameters()).mul_(2)
    with pytest.raises(RuntimeError, match="changed in place between"):
        pictures.sum().backward()


def test_half_precision_and_autocast():
    vae, latents = prepare(build_kl, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain_decode(vae, latents)
        pictures = decoder(vae, slice_size=None)(latents)
    torch.testing.assert_close(pictures, expected, rtol=0, atol=0)
    assert_same(gradient(vae, latents, pictures), gradient(vae, latents, expected), 1e-2)


def test_slice_size_of_nothing():
    vae, latents = prepare(build_kl)
    with pytest.raises(ValueError, match="slice_size must be at least 1"):
        decoder(vae, slice_size=0)(latents)
