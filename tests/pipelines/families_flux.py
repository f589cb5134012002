"""Flux: distilled to take the guidance scale (dev), to four steps (schnell), and guided by two."""

from case import Case, finish
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    UniPCMultistepScheduler,
)
from tiny_parts import build_clip, build_vae
from tiny_pipeline import build_tokenizer
from tiny_t5 import build_t5, build_t5_tokenizer


def build(folder, guidance_embeds=True, **scheduler):
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=guidance_embeds,
    )
    return finish(
        FluxPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(**scheduler),
            vae=build_vae(shift_factor=0.1),
            text_encoder=build_clip(),
            tokenizer=build_tokenizer(folder),
            text_encoder_2=build_t5(),
            tokenizer_2=build_t5_tokenizer(),
        )
    )


def build_dev(folder):
    return build(folder, use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64)


def build_schnell(folder):
    return build(folder, guidance_embeds=False)


def stock(pipe, noise, cond):
    batch, channels, height, width = noise.shape
    return {
        "latents": pipe._pack_latents(noise, batch, channels, height, width),
        "prompt_embeds": cond["encoder_hidden_states"],
        "pooled_prompt_embeds": cond["pooled_projections"],
        "negative_prompt_embeds": cond.get("negative_encoder_hidden_states"),
        "negative_pooled_prompt_embeds": cond.get("negative_pooled_projections"),
    }


def stock_guided(pipe, noise, cond):
    return {**stock(pipe, noise, cond), **TRUE_CFG}


def from_stock(pipe, latents):
    return pipe._unpack_latents(latents, **SIZE, vae_scale_factor=pipe.vae_scale_factor)


TRUE_CFG = {"true_cfg_scale": 2.0}
NEGATIVE = {"negative_prompt": ["c", "b"]}
SIZE = {"height": 24, "width": 16}

CASES = [
    Case(
        "Flux dev",
        build_dev,
        stock,
        denoiser="transformer",
        schedulers=(DPMSolverMultistepScheduler, UniPCMultistepScheduler),
        scheduler_settings={"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
        arguments=SIZE,
        from_stock=from_stock,
    ),
    Case(
        "Flux schnell",
        build_schnell,
        stock,
        denoiser="transformer",
        arguments=SIZE,
        guidance_scale=1.0,
        from_stock=from_stock,
    ),
    Case(
        "Flux dev (true CFG)",
        build_dev,
        stock_guided,
        denoiser="transformer",
        encoding=lambda pipe: NEGATIVE,
        stock_prompt=lambda prompt: {"prompt": prompt, **NEGATIVE, **TRUE_CFG},
        settings=TRUE_CFG,
        arguments=SIZE,
        from_stock=from_stock,
    ),
]
