"""Kandinsky 2.2: the decoder."""

import torch
from case import Case, call_stock, finish
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    KandinskyV22Pipeline,
    UNet2DConditionModel,
    VQModel,
)

DIM = 6


def embeds(seed):
    return torch.randn(2, DIM, generator=torch.Generator().manual_seed(seed))


def build(folder):
    unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=8,
        addition_embed_type="image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=2,
        encoder_hid_dim=DIM,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=DIM,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
    )
    movq = VQModel(
        block_out_channels=(32, 32),  # its groups of 32 are fixed
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        vq_embed_dim=4,
        num_vq_embeddings=12,
        norm_num_groups=4,
        norm_type="spatial",
    )
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False
    )
    return finish(KandinskyV22Pipeline(unet=unet, scheduler=scheduler, movq=movq))


def call(pipe, call, arguments):
    """The stock pictures in [0, 1], where those that are asked for as tensors lie."""
    result = call_stock(pipe, call, arguments)
    if arguments["output_type"] == "latent":
        return result
    return (result * 0.5 + 0.5).clamp(0, 1)


def stock(pipe, noise, cond):
    return {
        "latents": noise,
        "image_embeds": cond["added_cond_kwargs"]["image_embeds"],
        "negative_image_embeds": cond["negative_added_cond_kwargs"]["image_embeds"],
    }


CASES = [
    Case(
        "Kandinsky 2.2 (decoder)",
        build,
        stock,
        schedulers=(DDIMScheduler, DPMSolverMultistepScheduler),
        prompt=embeds(1),
        stock_prompt=lambda prompt: {"image_embeds": prompt, "negative_image_embeds": embeds(2)},
        arguments={"height": 15, "width": 18},
        encoding=lambda pipe: {"negative_prompt": embeds(2)},
        call=call,
    ),
]
