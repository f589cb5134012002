"""ControlNet for Stable Diffusion and Stable Diffusion XL."""

import families_stable_diffusion
import families_stable_diffusion_xl
import torch
from case import Case, finish
from diffusers import (
    ControlNetModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetPipeline,
    UniPCMultistepScheduler,
)
from families_image_to_image import from_picture
from tiny_ip_adapter import image_prompt, load_ip_adapter

SCALE = 0.7
SCHEDULERS = (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)


def controlnet_for(unet):
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))


def parts(folder, count=1):
    components = families_stable_diffusion.build_epsilon(folder).components
    nets = [controlnet_for(components["unet"]) for _ in range(count)]
    return {**components, "controlnet": nets if count > 1 else nets[0]}


def build(folder):
    pipe = StableDiffusionControlNetPipeline(**parts(folder), requires_safety_checker=False)
    return finish(pipe)


def build_several(folder):
    return finish(
        StableDiffusionControlNetPipeline(**parts(folder, 2), requires_safety_checker=False)
    )


def build_image_to_image(folder):
    return finish(
        StableDiffusionControlNetImg2ImgPipeline(**parts(folder), requires_safety_checker=False)
    )


def parts_xl(folder):
    components = families_stable_diffusion_xl.components(folder)
    return {**components, "controlnet": controlnet_for(components["unet"])}


def build_xl(folder):
    return finish(load_ip_adapter(StableDiffusionXLControlNetPipeline(**parts_xl(folder))))


def build_xl_image_to_image(folder):
    return finish(StableDiffusionXLControlNetImg2ImgPipeline(**parts_xl(folder)))


def control(seed, count=2):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def encoding(pipe):
    return {"control_image": control(6), "controlnet_conditioning_scale": SCALE}


def encoding_of_several(pipe):
    scales = [SCALE, 1.5]
    return {"control_image": [control(6), control(7)], "controlnet_conditioning_scale": scales}


def encoding_with_image_prompt(pipe):
    return {
        "control_image": control(6, 1),
        "controlnet_conditioning_scale": SCALE,
        **image_prompt(),
    }


def controlled(stock, name="image"):
    def with_control(pipe, noise, cond):
        return {
            **stock(pipe, noise, cond),
            name: cond["controlnet_cond"],
            "controlnet_conditioning_scale": cond["conditioning_scale"],
        }

    return with_control


def stock_prompt(prompt):
    return {"prompt": prompt, "image": control(6), "controlnet_conditioning_scale": SCALE}


def several_stock_prompt(prompt):
    scales = [SCALE, 1.5]
    images = [control(6), control(7)]
    return {"prompt": prompt, "image": images, "controlnet_conditioning_scale": scales}


CASES = [
    Case(
        "ControlNet",
        build,
        controlled(families_stable_diffusion.stock),
        schedulers=SCHEDULERS,
        stock_prompt=stock_prompt,
        encoding=encoding,
    ),
    Case(
        "ControlNet, two of them",
        build_several,
        controlled(families_stable_diffusion.stock),
        stock_prompt=several_stock_prompt,
        encoding=encoding_of_several,
    ),
    from_picture(
        "ControlNet, image to image",
        build_image_to_image,
        controlled(families_stable_diffusion.stock, "control_image"),
        prompt_arguments=encoding(None),
        encoding=encoding,
    ),
    Case(
        "ControlNet for Stable Diffusion XL with IP-Adapter",
        build_xl,
        controlled(families_stable_diffusion_xl.stock),
        prompt=["a b"],
        stock_prompt=lambda prompt: {
            "prompt": prompt,
            "image": control(6, 1),
            "controlnet_conditioning_scale": SCALE,
            **image_prompt(),
        },
        encoding=encoding_with_image_prompt,
    ),
    from_picture(
        "ControlNet for Stable Diffusion XL, image to image",
        build_xl_image_to_image,
        controlled(families_stable_diffusion_xl.stock, "control_image"),
        prompt_arguments=encoding(None),
        encoding=encoding,
    ),
]
