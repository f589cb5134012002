"""Stable Diffusion 3, and 3.5 with dynamic shifting."""

from case import Case, finish
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
)
from tiny_parts import build_clip, build_vae
from tiny_pipeline import build_tokenizer
from tiny_t5 import build_t5, build_t5_tokenizer

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def build(folder, scheduler=None, **settings):
    tokenizer = build_tokenizer(folder)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
        **settings,
    )
    return finish(
        StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=scheduler or FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=build_vae(shift_factor=0.1),
            text_encoder=build_clip(projection=True, num_layers=2),
            tokenizer=tokenizer,
            text_encoder_2=build_clip(projection=True, num_layers=2),
            tokenizer_2=tokenizer,
            text_encoder_3=build_t5(32),
            tokenizer_3=build_t5_tokenizer(),
        )
    )


def build_shifting(folder):
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64
    )
    return build(folder, scheduler, qk_norm="rms_norm", dual_attention_layers=(0,))


def stock(pipe, noise, cond):
    return {
        "latents": noise,
        "prompt_embeds": cond["encoder_hidden_states"],
        "pooled_prompt_embeds": cond["pooled_projections"],
        "negative_prompt_embeds": cond.get("negative_encoder_hidden_states"),
        "negative_pooled_prompt_embeds": cond.get("negative_pooled_projections"),
    }


CASES = [
    Case(
        "Stable Diffusion 3",
        build,
        stock,
        denoiser="transformer",
        schedulers=(
            DPMSolverMultistepScheduler,
            FlowMatchHeunDiscreteScheduler,
            UniPCMultistepScheduler,
        ),
        scheduler_settings=FLOW,
    ),
    Case(
        "Stable Diffusion 3.5",
        build_shifting,
        stock,
        denoiser="transformer",
        schedulers=(UniPCMultistepScheduler,),
        scheduler_settings=FLOW,
        arguments={"height": 24, "width": 16},
    ),
]
