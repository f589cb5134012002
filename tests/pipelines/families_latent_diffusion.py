"""Latent diffusion, with a prompt and without."""

import contextlib
from unittest import mock

import families_stable_diffusion
import torch
from case import Case, finish
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LDMPipeline,
    LDMTextToImagePipeline,
    PNDMScheduler,
    VQModel,
)
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
    LDMBertConfig,
    LDMBertModel,
)
from families_pixel import build_unet
from first_draw import FirstDraw
from tiny_pipeline import TOKENS


def build_vqvae(channels=4):
    """Pictures eight times as large as the latents, a number that the stock pipeline relies on."""
    return VQModel(
        block_out_channels=(2, 2, 2, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        vq_embed_dim=channels,
        num_vq_embeddings=16,
        norm_num_groups=2,
        scaling_factor=0.5,
    )


def build(folder):
    parts = families_stable_diffusion.build_epsilon(folder).components
    bert = LDMBertConfig(
        vocab_size=len(TOKENS),
        encoder_layers=1,
        encoder_ffn_dim=8,
        encoder_attention_heads=2,
        head_dim=8,
        d_model=16,
    )
    return finish(
        LDMTextToImagePipeline(
            vqvae=build_vqvae(),
            bert=LDMBertModel(bert),
            tokenizer=parts["tokenizer"],
            unet=parts["unet"],
            scheduler=parts["scheduler"],
        )
    )


def build_unconditional(folder):
    scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)
    return finish(LDMPipeline(vqvae=build_vqvae(), unet=build_unet(4), scheduler=scheduler))


def until_decoded(pipe, call, output_type, **arguments):
    """Run the stock call up to its decoding if it is the latents that are wanted."""
    if output_type != "latent":
        pictures = call(pipe, output_type="np", return_dict=False, **arguments)[0]
        return torch.from_numpy(pictures).permute(0, 3, 1, 2)
    with mock.patch.object(pipe.vqvae, "decode", side_effect=StopIteration) as decode:
        with contextlib.suppress(StopIteration):
            call(pipe, output_type="pt", **arguments)
        return decode.call_args.args[0] * pipe.vqvae.config.scaling_factor


def call(pipe, call, arguments):
    """With embeddings in place of what the text encoder says, first the negative ones."""
    arguments = dict(arguments)
    embeds = arguments.pop("embeds", None)
    if embeds is None:
        return until_decoded(pipe, call, **arguments)
    answers = [(each,) for each in embeds]
    with mock.patch.object(pipe.bert, "forward", side_effect=answers):
        return until_decoded(pipe, call, prompt=["a"] * len(embeds[0]), **arguments)


def call_unconditional(pipe, call, arguments):
    arguments = dict(arguments)
    latents = arguments.pop("latents")
    with FirstDraw(latents):
        return until_decoded(pipe, call, batch_size=len(latents), **arguments)


def stock(pipe, noise, cond):
    embeds = [cond["negative_encoder_hidden_states"], cond["encoder_hidden_states"]]
    return {"latents": noise, "embeds": embeds}


CASES = [
    Case(
        "Latent diffusion (text)",
        build,
        stock,
        schedulers=(DPMSolverMultistepScheduler, PNDMScheduler),
        call=call,
    ),
    Case(
        "Latent diffusion (unconditional)",
        build_unconditional,
        lambda pipe, noise, cond: {"latents": noise},
        schedulers=(DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler),
        prompt=None,
        guidance_scale=1.0,
        call=call_unconditional,
        numpy=True,
    ),
]
