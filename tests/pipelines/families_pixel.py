"""Unconditional models of pixels."""

import torch
from case import Case, finish
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from first_draw import call_with_first_draw


def build_unet(channels=3, **settings):
    return UNet2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(4, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=2,
        attention_head_dim=4,
        **settings,
    )


def build_ddpm(folder):
    return finish(DDPMPipeline(build_unet(), DDPMScheduler(clip_sample=True)))


def build_ddim(folder):
    # A prediction of x_0 that stays within [-1, 1]: the stock pipeline gives clamped pictures only.
    scheduler = DDIMScheduler(clip_sample=False, prediction_type="sample")
    pipe = finish(DDIMPipeline(build_unet(), scheduler))
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(0.2)
    return pipe


def call(pipe, call, arguments):
    """The stock pictures, or the samples that they are of."""
    arguments = dict(arguments)
    output_type = arguments.pop("output_type")
    batch_size = len(arguments["latents"])
    arguments = {**arguments, "output_type": "pt", "batch_size": batch_size}
    pictures = call_with_first_draw(pipe, call, arguments)
    return pictures if output_type == "pt" else 2 * pictures - 1


def stock(pipe, noise, cond):
    return {"latents": noise}


CASES = [
    # In float64 the clipping, which the denoiser does, differs from the scheduler's by the rounding
    # of the scheduler's own tables, which are float32.
    Case(
        "DDPM (pixels)",
        build_ddpm,
        stock,
        prompt=None,
        guidance_scale=1.0,
        call=call,
        double=False,
    ),
    Case("DDIM (pixels)", build_ddim, stock, prompt=None, guidance_scale=1.0, call=call),
]
