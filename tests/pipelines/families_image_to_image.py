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


def from_picture(
    name, build, stock, strength=STRENGTH, picture=picture, prompt_arguments=None, **settings
):
    """Return the case of a pipeline whose stock call takes ``stock``, a picture and a strength.

    ``prompt_arguments`` are further ones of the stock call that encodes the prompt itself.
    """

    def with_picture(pipe, noise, cond):
        arguments = stock(pipe, noise, cond)
        return {**arguments, "image": cond["image_latents"], "strength": strength}

    def stock_prompt(prompt):
        image = picture()["image_latents"]
        arguments = {"prompt": prompt, "image": image, "strength": strength}
        return {**arguments, **(prompt_arguments or {})}

    return Case(
        name,
        build,
        with_picture,
        stock_prompt=stock_prompt,
        settings={"strength": strength},
        inputs=picture,
        call=call_with_first_draw,
        **settings,
    )


CASES = [
    from_picture(
        "Stable Diffusion 1, image to image",
        build,
        families_stable_diffusion.stock,
        schedulers=SCHEDULERS,
    ),
    from_picture(
        "Latent consistency model, image to image",
        build_consistency,
        families_stable_diffusion.stock_without_guidance,
        guided=False,
    ),
    from_picture(
        "Stable Diffusion XL, image to image", build_xl, families_stable_diffusion_xl.stock
    ),
    from_picture(
        "Stable Diffusion 3, image to image",
        build_sd3,
        families_stable_diffusion_3.stock,
        PART_OF_A_STEP,
        denoiser="transformer",
    ),
    from_picture(
        "Flux dev, image to image",
        build_flux,
        stock_flux,
        PART_OF_A_STEP,
        partial(picture, height=12),
        denoiser="transformer",
        arguments=families_flux.SIZE,
        from_stock=families_flux.from_stock,
    ),
]
