"""PixArt-alpha, which is told the size of its pictures, and PixArt-sigma, which is not."""

import functools

from case import Case, finish
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    UniPCMultistepScheduler,
)
from tiny_parts import build_vae
from tiny_t5 import build_t5, build_t5_tokenizer


def build(folder, pipeline_class, **settings):
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        cross_attention_dim=24,
        caption_channels=16,
        **settings,
    )
    return finish(
        pipeline_class(
            tokenizer=build_t5_tokenizer(),
            text_encoder=build_t5(),
            vae=build_vae(),
            transformer=transformer,
            scheduler=DPMSolverMultistepScheduler(),
        )
    )


build_alpha = functools.partial(build, pipeline_class=PixArtAlphaPipeline, sample_size=128)
build_sigma = functools.partial(build, pipeline_class=PixArtSigmaPipeline, sample_size=8)
UNBINNED = {"use_resolution_binning": False}


def stock(pipe, noise, cond):
    return {
        "latents": noise,
        "prompt_embeds": cond["encoder_hidden_states"],
        "prompt_attention_mask": cond["encoder_attention_mask"],
        "negative_prompt": None,
        "negative_prompt_embeds": cond.get("negative_encoder_hidden_states"),
        "negative_prompt_attention_mask": cond.get("negative_encoder_attention_mask"),
        **UNBINNED,
    }


CASES = [
    Case(
        "PixArt-alpha",
        build_alpha,
        stock,
        denoiser="transformer",
        schedulers=(LCMScheduler,),
        stock_prompt=lambda prompt: {"prompt": prompt, **UNBINNED},
        arguments={"height": 16, "width": 24},
    ),
    Case(
        "PixArt-sigma",
        build_sigma,
        stock,
        denoiser="transformer",
        schedulers=(
            DDIMScheduler,
            DEISMultistepScheduler,
            EulerAncestralDiscreteScheduler,
            EulerDiscreteScheduler,
            UniPCMultistepScheduler,
        ),
        stock_prompt=lambda prompt: {"prompt": prompt, **UNBINNED},
    ),
]
