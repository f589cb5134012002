"""Stable Diffusion 1.x and 2.x."""

from case import Case
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
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


def stock(pipe, noise, cond):
    return {
        "latents": noise,
        "prompt_embeds": cond["encoder_hidden_states"],
        "negative_prompt_embeds": cond.get("negative_encoder_hidden_states"),
    }


CASES = [
    Case("Stable Diffusion 1 (ε)", build_epsilon, stock, schedulers=SCHEDULERS),
    Case("Stable Diffusion 2 (v)", build_pipeline, stock, schedulers=SCHEDULERS),
]
