"""DiT, whose stock call draws its noise itself and returns pictures only."""

import pytest
from case import Case, finish
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.dit import pipeline_dit
from tiny_parts import build_vae

NAMES = {3: "apple, fruit", 7: "rocket"}


def build(folder):
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=1000,  # the stock call takes class 1000 for none
    )
    return finish(
        DiTPipeline(transformer, build_vae(), DDIMScheduler(clip_sample=False), id2label=NAMES)
    )


def stock(pipe, noise, cond):
    return {"latents": noise, "class_labels": cond["class_labels"].tolist()}


def call(pipe, function, arguments):
    """Hand our noise to the stock call in place of its draw, and take latents before decoding."""
    arguments = dict(arguments)
    noise, output_type = arguments.pop("latents"), arguments.pop("output_type")
    decoded = []
    decode = pipe.vae.decode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline_dit, "randn_tensor", lambda **_: noise)
        patch.setattr(pipe.vae, "decode", lambda z: decoded.append(z) or decode(z))
        pictures = function(pipe, output_type="pt", return_dict=False, **arguments)[0]
    if output_type == "latent":
        return decoded[0] * pipe.vae.config.scaling_factor
    return pictures


CASES = [
    Case(
        "DiT",
        build,
        stock,
        denoiser="transformer",
        schedulers=(
            DEISMultistepScheduler,
            DPMSolverMultistepScheduler,
            PNDMScheduler,
            UniPCMultistepScheduler,
        ),
        prompt=[3, 7],
        stock_prompt=lambda prompt: {"class_labels": prompt},
        call=call,
    ),
]
