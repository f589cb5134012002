"""Stable Diffusion XL."""

from case import Case, finish
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from tiny_ip_adapter import image_prompt, load_ip_adapter, stock_image_prompt
from tiny_parts import build_clip, build_vae
from tiny_pipeline import build_tokenizer

SCHEDULERS = (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)


def components(folder, vae=None, **unet_settings):
    tokenizer = build_tokenizer(folder)
    settings = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": (2, 4),
        "cross_attention_dim": 32,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + 16,
    }
    return {
        "unet": UNet2DConditionModel(**{**settings, **unet_settings}),
        "scheduler": EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        "vae": vae or build_vae(),
        "text_encoder": build_clip(num_layers=2),
        "tokenizer": tokenizer,
        "text_encoder_2": build_clip(projection=True, num_layers=2),
        "tokenizer_2": tokenizer,
    }


def build(folder):
    return finish(StableDiffusionXLPipeline(**components(folder)))


def build_shifted(folder):
    vae = build_vae(latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 3.0, 4.0])
    return finish(StableDiffusionXLPipeline(**components(folder, vae)))


def build_distilled(folder):
    return finish(StableDiffusionXLPipeline(**components(folder, time_cond_proj_dim=8)))


def build_with_image_prompt(folder):
    pipe = StableDiffusionXLPipeline(**components(folder))
    return finish(load_ip_adapter(pipe))


SIZES = {
    "original_size": (40, 30),
    "crops_coords_top_left": (1, 2),
    "negative_original_size": (8, 9),
    "negative_target_size": (10, 11),
    "negative_crops_coords_top_left": (3, 4),
}


def stock(pipe, noise, cond):
    added, negative = cond["added_cond_kwargs"], cond.get("negative_added_cond_kwargs", {})
    arguments = {
        "latents": noise,
        "prompt_embeds": cond["encoder_hidden_states"],
        "pooled_prompt_embeds": added["text_embeds"],
        "negative_prompt_embeds": cond.get("negative_encoder_hidden_states"),
        "negative_pooled_prompt_embeds": negative.get("text_embeds"),
    }
    return {**arguments, **stock_image_prompt(cond)}


def stock_with_sizes(pipe, noise, cond):
    return {**stock(pipe, noise, cond), **SIZES}


CASES = [
    Case("Stable Diffusion XL", build, stock, schedulers=SCHEDULERS),
    Case(
        "Stable Diffusion XL (sizes)",
        build_shifted,
        stock_with_sizes,
        # With more prompts the stock pipeline mixes up which sizes are the negative ones.
        prompt=["a b"],
        stock_prompt=lambda prompt: {"prompt": prompt, **SIZES},
        arguments={"height": 24, "width": 16},
        encoding=lambda pipe: SIZES,
    ),
    Case("Stable Diffusion XL (distilled)", build_distilled, stock, guided=False),
    Case(
        "Stable Diffusion XL with IP-Adapter",
        build_with_image_prompt,
        stock,
        prompt=["a b"],
        stock_prompt=lambda prompt: {"prompt": prompt, **image_prompt()},
        encoding=image_prompt,
    ),
]
