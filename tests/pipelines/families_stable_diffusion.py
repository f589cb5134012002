"""Stable Diffusion 1.x and 2.x."""

from case import Case, finish
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from tiny_ip_adapter import image_prompt, load_ip_adapter, stock_image_prompt
from tiny_pipeline import build_pipeline

SCHEDULERS = (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)


def build_epsilon(folder):
    return build_pipeline(folder, DDIMScheduler(clip_sample=False, steps_offset=1))


def build_distilled(folder):
    parts = build_pipeline(folder, LCMScheduler(), time_cond_proj_dim=8).components
    return finish(LatentConsistencyModelPipeline(**parts, requires_safety_checker=False))


def build_with_image_prompt(folder):
    return finish(load_ip_adapter(build_epsilon(folder)))


def stock(pipe, noise, cond):
    return {
        "latents": noise,
        "prompt_embeds": cond["encoder_hidden_states"],
        "negative_prompt_embeds": cond.get("negative_encoder_hidden_states"),
        **stock_image_prompt(cond),
    }


def stock_without_guidance(pipe, noise, cond):
    return {"latents": noise, "prompt_embeds": cond["encoder_hidden_states"]}


CASES = [
    Case("Stable Diffusion 1 (ε)", build_epsilon, stock, schedulers=SCHEDULERS),
    Case("Stable Diffusion 2 (v)", build_pipeline, stock, schedulers=SCHEDULERS),
    Case(
        "Stable Diffusion 1 with IP-Adapter",
        build_with_image_prompt,
        stock,
        prompt=["a b"],
        stock_prompt=lambda prompt: {"prompt": prompt, **image_prompt()},
        encoding=image_prompt,
    ),
    Case(
        "Latent consistency model",
        build_distilled,
        stock_without_guidance,
        guided=False,
    ),
]
