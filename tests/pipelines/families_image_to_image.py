"""Image to image: the last steps, from a noised picture."""

from functools import partial

import families_flux
import families_stable_diffusion
import families_stable_diffusion_3
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
    FluxImg2ImgPipeline,
    HeunDiscreteScheduler,
    LatentConsistencyModelImg2ImgPipeline,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
    UniPCMultistepScheduler,
)
from first_draw import call_with_first_draw

STRENGTH = 0.7
PART_OF_A_STEP = 0.5
"""Of an odd number of steps; SD3 and Flux round up."""
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


def build_consistency(folder):
    parts = families_stable_diffusion.build_distilled(folder).components
    return finish(LatentConsistencyModelImg2ImgPipeline(**parts, requires_safety_checker=False))


def build_xl(folder):
    parts = families_stable_diffusion_xl.components(folder)
    return finish(StableDiffusionXLImg2ImgPipeline(**parts))


def build_sd3(folder):
    return finish(
        StableDiffusion3Img2ImgPipeline(**families_stable_diffusion_3.build(folder).components)
    )


def build_flux(folder):
    return finish(FluxImg2ImgPipeline(**families_flux.build_dev(folder).components))


def stock_flux(pipe, noise, cond):
    """Noise that the stock call draws is not packed yet."""
    return {**families_flux.stock(pipe, noise, cond), "latents": noise}


def picture(pipe=None, height=8):
    generator = torch.Generator().manual_seed(4)
    return {"image_latents": torch.randn(2, 4, height, 8, generator=generator)}


tall_picture = partial(picture, height=12)


def from_picture(stock, strength=STRENGTH):
    def with_picture(pipe, noise, cond):
        arguments = stock(pipe, noise, cond)
        return {**arguments, "image": cond["image_latents"], "strength": strength}

    return with_picture


def stock_prompt(prompt, picture=picture, strength=STRENGTH):
    return {"prompt": prompt, "image": picture()["image_latents"], "strength": strength}


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
        "Latent consistency model, image to image",
        build_consistency,
        from_picture(families_stable_diffusion.stock_without_guidance),
        stock_prompt=stock_prompt,
        settings={"strength": STRENGTH},
        inputs=picture,
        guided=False,
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
    Case(
        "Stable Diffusion 3, image to image",
        build_sd3,
        from_picture(families_stable_diffusion_3.stock, PART_OF_A_STEP),
        denoiser="transformer",
        stock_prompt=partial(stock_prompt, strength=PART_OF_A_STEP),
        settings={"strength": PART_OF_A_STEP},
        inputs=picture,
        call=call_with_first_draw,
    ),
    Case(
        "Flux dev, image to image",
        build_flux,
        from_picture(stock_flux, PART_OF_A_STEP),
        denoiser="transformer",
        stock_prompt=partial(stock_prompt, picture=tall_picture, strength=PART_OF_A_STEP),
        settings={"strength": PART_OF_A_STEP},
        inputs=tall_picture,
        arguments=families_flux.SIZE,
        from_stock=families_flux.from_stock,
        call=call_with_first_draw,
    ),
]
