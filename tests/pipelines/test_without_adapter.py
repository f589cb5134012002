"""`differentiable` on pipelines that have no adapter: what they do around the network is theirs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import families_flux
import families_stable_diffusion_xl
import families_video
import pytest
import torch
from case import finish
from comparison import KeepDouble, assert_same_gradients, gradients, unround_, with_gradient
from diffusers import (
    DDIMScheduler,
    FluxInpaintPipeline,
    LTXImageToVideoPipeline,
    StableDiffusionGLIGENPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionXLInpaintPipeline,
)
from tiny_pipeline import build_pipeline
from torch import Tensor, nn

import adjointdpm as adp


@dataclass(frozen=True)
class Case:
    """A pipeline, and how it is called: with tensors that get a gradient, and other arguments."""

    build: Callable[[Path], Any]
    tensors: dict[str, tuple[int, ...]]
    arguments: dict[str, Any]


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def of_stable_diffusion(pipeline: Any, **unet: Any) -> Callable[[Path], Any]:
    def build(folder: Path) -> Any:
        scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)
        parts = build_pipeline(folder, scheduler, **unet).components
        taken = inspect.signature(pipeline).parameters
        parts = {name: part for name, part in parts.items() if name in taken}
        return finish(pipeline(**parts, requires_safety_checker=False))

    return build


def of_sdxl_inpainting(folder: Path) -> Any:
    parts = families_stable_diffusion_xl.components(folder)
    parts["vae"].register_to_config(force_upcast=False)  # to float32
    return finish(StableDiffusionXLInpaintPipeline(**parts))


def of_flux_inpainting(folder: Path) -> Any:
    return finish(FluxInpaintPipeline(**families_flux.build_dev(folder).components))


def of_ltx(folder: Path) -> Any:
    return finish(LTXImageToVideoPipeline(**families_video.build_ltx(folder).components))


EMBEDS = {"prompt_embeds": (1, 8, 16), "negative_prompt_embeds": (1, 8, 16)}
LATENTS = {"latents": (1, 4, 8, 8)}
PICTURE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))
MASK = (torch.arange(16) < 9).float().expand(1, 1, 16, 16)
INPAINTING = {"image": PICTURE, "mask_image": MASK, "height": 16, "width": 16, "strength": 1.0}
CASES = {
    "inpainting by blending": Case(
        of_stable_diffusion(StableDiffusionInpaintPipeline), {**LATENTS, **EMBEDS}, INPAINTING
    ),
    "inpainting by a network": Case(
        of_stable_diffusion(StableDiffusionInpaintPipeline, in_channels=9, out_channels=4),
        {**LATENTS, **EMBEDS},
        INPAINTING,
    ),
    "instructions": Case(
        of_stable_diffusion(StableDiffusionInstructPix2PixPipeline, in_channels=8, out_channels=4),
        {**LATENTS, **EMBEDS},
        {"image": PICTURE, "image_guidance_scale": 1.5},
    ),
    "perturbed attention": Case(
        of_stable_diffusion(StableDiffusionPAGPipeline),
        {**LATENTS, **EMBEDS},
        {"pag_scale": 2.0, "pag_adaptive_scale": 0.0},
    ),
    "boxes": Case(
        of_stable_diffusion(StableDiffusionGLIGENPipeline, attention_type="gated"),
        {**LATENTS, **EMBEDS},
        {
            "gligen_phrases": ["b"],
            "gligen_boxes": [[0.1, 0.2, 0.7, 0.9]],
            # Boxes count in the first step only.
            "gligen_scheduled_sampling_beta": 0.4,
        },
    ),
    "SDXL inpainting": Case(
        of_sdxl_inpainting,
        {
            **LATENTS,
            "prompt_embeds": (1, 8, 32),
            "negative_prompt_embeds": (1, 8, 32),
            "pooled_prompt_embeds": (1, 16),
            "negative_pooled_prompt_embeds": (1, 16),
        },
        INPAINTING,
    ),
    "Flux inpainting": Case(
        of_flux_inpainting,
        {"prompt_embeds": (1, 8, 16), "pooled_prompt_embeds": (1, 16)},
        INPAINTING,
    ),
    "a video from a picture": Case(
        of_ltx,
        {"prompt_embeds": (1, 8, 16), "negative_prompt_embeds": (1, 8, 16)},
        {
            "image": torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5)),
            "prompt_attention_mask": torch.ones(1, 8),
            "negative_prompt_attention_mask": torch.ones(1, 8),
            "height": 32,
            "width": 32,
            "num_frames": 5,
        },
    ),
}


def run(call: Callable[..., Any], case: Case, tensors: dict[str, Tensor]) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    settings = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent"}
    arguments = {**settings, **tensors, **case.arguments, "generator": generator}
    return call(return_dict=False, **arguments)[0]


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_autograd(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    pipe = case.build(tmp_path)
    assert type(pipe).__name__ not in adp.pipelines.FAMILIES
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.double()
    unround_(pipe)
    tensors = {
        key: normal(i, *shape).requires_grad_()
        for i, (key, shape) in enumerate(case.tensors.items())
    }
    inputs = list(tensors.values())
    with KeepDouble(least_dims=3):
        theirs = gradients(run(partial(with_gradient, pipe), case, tensors), inputs)
        with adp.differentiable(pipe):
            sample = run(pipe, case, tensors)
        ours = gradients(sample, inputs)
    assert_same_gradients(ours, theirs, 1e-9)
