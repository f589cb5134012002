"""The families of pipelines by the names of the classes; a new family is one more entry."""

from __future__ import annotations

from typing import Any

from .families.animatediff import AnimateDiff
from .families.auraflow import AuraFlow
from .families.cogvideo import CogVideoX
from .families.controlnet import StableDiffusionControlNet, StableDiffusionXLControlNet
from .families.dit import DiT
from .families.flux import Flux
from .families.kandinsky import Kandinsky
from .families.latent_diffusion import LatentDiffusion, UnconditionalLatentDiffusion
from .families.ltx import LTX
from .families.pixart import PixArt
from .families.pixel import Pixel
from .families.sana import Sana
from .families.stable_diffusion import LatentConsistencyImageToImage, StableDiffusion
from .families.stable_diffusion_3 import StableDiffusion3
from .families.stable_diffusion_xl import StableDiffusionXL
from .families.wan import Wan
from .family import Family

FAMILIES: dict[str, type[Family]] = {
    "AnimateDiffPipeline": AnimateDiff,
    "AuraFlowPipeline": AuraFlow,
    "CogVideoXPipeline": CogVideoX,
    "DDIMPipeline": Pixel,
    "DDPMPipeline": Pixel,
    "DiTPipeline": DiT,
    "FluxImg2ImgPipeline": Flux,
    "FluxPipeline": Flux,
    "KandinskyV22Pipeline": Kandinsky,
    "LDMPipeline": UnconditionalLatentDiffusion,
    "LDMTextToImagePipeline": LatentDiffusion,
    "LTXPipeline": LTX,
    "LatentConsistencyModelImg2ImgPipeline": LatentConsistencyImageToImage,
    "LatentConsistencyModelPipeline": StableDiffusion,
    "PixArtAlphaPipeline": PixArt,
    "PixArtSigmaPipeline": PixArt,
    "SanaPipeline": Sana,
    "StableDiffusion3Img2ImgPipeline": StableDiffusion3,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "StableDiffusionControlNetImg2ImgPipeline": StableDiffusionControlNet,
    "StableDiffusionControlNetPipeline": StableDiffusionControlNet,
    "StableDiffusionImg2ImgPipeline": StableDiffusion,
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLControlNetImg2ImgPipeline": StableDiffusionXLControlNet,
    "StableDiffusionXLControlNetPipeline": StableDiffusionXLControlNet,
    "StableDiffusionXLImg2ImgPipeline": StableDiffusionXL,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "WanPipeline": Wan,
}


def family_of(pipe: Any) -> Family:
    """Return a pipeline as one of its family.

    Raises:
        ValueError: there is none for its class.
    """
    own, *bases = type(pipe).__mro__
    # A subclass that samples in its own way is another pipeline.
    alike = [base for base in bases if base.__call__ is own.__call__]
    for cls in (own, *alike):
        if cls.__name__ in FAMILIES:
            return FAMILIES[cls.__name__](pipe)
    raise ValueError(
        f"{own.__name__} has no adapter; known are {', '.join(sorted(FAMILIES))}. The stock call "
        "of any pipeline can be differentiated all the same: with adp.differentiable(pipe): "
        'images = pipe(..., output_type="pt").images. Or build the sampler from its parts: '
        "Sampler(Denoiser(network, Schedule.from_config(pipe.scheduler.config), prediction_type), "
        "Plan.from_scheduler(pipe.scheduler, steps))"
    )
