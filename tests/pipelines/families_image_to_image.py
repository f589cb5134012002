"""Image to image: Stable Diffusion from a noised picture."""

import families_stable_diffusion
import families_stable_diffusion_xl
import torch
from case import Case, finish
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
    UniPCMultistepScheduler,
)
from first_draw import call_with_first_draw

STRENGTH = 0.7
SCHEDULERS = (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)


def build(folder):
    parts = families_stable_diffusion.build_epsilon(folder).components
    return finish(StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False))


def build_xl(folder):
    parts = families_stable_diffusion_xl.components(folder)
    return finish(StableDiffusionXLImg2ImgPipeline(**parts))


def picture(pipe=None):
    generator = torch.Generator().manual_seed(4)
    return {"image_latents": torch.randn(2, 4, 8, 8, generator=generator)}


def from_picture(stock):
    def with_picture(pipe, noise, cond):
        arguments = stock(pipe, noise, cond)
        return {**arguments, "image": cond["image_latents"], "strength": STRENGTH}

    return with_picture


def stock_prompt(prompt):
    return {"prompt": prompt, "image": picture()["image_latents"], "strength": STRENGTH}


CASES = [
    Case(
        "Stable Diffusion 1, image to image",
        build,
        from_picture(families_stable_diffusion.stock),
        schedulers=SCHEDULERS,
        stock_prompt=stock_prompt,
        settings={"strength": STRENGTH},
        inputs=picture,
        call=call_with_first_draw,
    ),
    Case(
        "Stable Diffusion XL, image to image",
        build_xl,
        from_picture(families_stable_diffusion_xl.stock),
        stock_prompt=stock_prompt,
        settings={"strength": STRENGTH},
        inputs=picture,
        call=call_with_first_draw,
    ),
]
