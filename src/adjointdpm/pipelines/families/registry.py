"""The families of pipelines, one module each, and what several of them share."""

from __future__ import annotations

from ..family import Family
from .animatediff import ANIMATEDIFF
from .auraflow import AURAFLOW
from .cogvideo import COGVIDEOX
from .controlnet import CONTROLNET, CONTROLNET_XL
from .dit import DIT
from .flux import FLUX
from .kandinsky import KANDINSKY
from .latent_diffusion import LATENT_DIFFUSION, UNCONDITIONAL_LATENT_DIFFUSION
from .ltx import LTX
from .pixart import PIXART
from .pixel import PIXEL
from .sana import SANA
from .stable_diffusion import LATENT_CONSISTENCY_IMAGE_TO_IMAGE, STABLE_DIFFUSION
from .stable_diffusion_3 import STABLE_DIFFUSION_3
from .stable_diffusion_xl import STABLE_DIFFUSION_XL
from .wan import WAN

FAMILIES: dict[str, Family] = {
    "AnimateDiffPipeline": ANIMATEDIFF,
    "AuraFlowPipeline": AURAFLOW,
    "CogVideoXPipeline": COGVIDEOX,
    "DDIMPipeline": PIXEL,
    "DDPMPipeline": PIXEL,
    "DiTPipeline": DIT,
    "FluxImg2ImgPipeline": FLUX,
    "FluxPipeline": FLUX,
    "KandinskyV22Pipeline": KANDINSKY,
    "LDMPipeline": UNCONDITIONAL_LATENT_DIFFUSION,
    "LDMTextToImagePipeline": LATENT_DIFFUSION,
    "LTXPipeline": LTX,
    "LatentConsistencyModelImg2ImgPipeline": LATENT_CONSISTENCY_IMAGE_TO_IMAGE,
    "LatentConsistencyModelPipeline": STABLE_DIFFUSION,
    "PixArtAlphaPipeline": PIXART,
    "PixArtSigmaPipeline": PIXART,
    "SanaPipeline": SANA,
    "StableDiffusion3Img2ImgPipeline": STABLE_DIFFUSION_3,
    "StableDiffusion3Pipeline": STABLE_DIFFUSION_3,
    "StableDiffusionControlNetImg2ImgPipeline": CONTROLNET,
    "StableDiffusionControlNetPipeline": CONTROLNET,
    "StableDiffusionImg2ImgPipeline": STABLE_DIFFUSION,
    "StableDiffusionPipeline": STABLE_DIFFUSION,
    "StableDiffusionXLControlNetImg2ImgPipeline": CONTROLNET_XL,
    "StableDiffusionXLControlNetPipeline": CONTROLNET_XL,
    "StableDiffusionXLImg2ImgPipeline": STABLE_DIFFUSION_XL,
    "StableDiffusionXLPipeline": STABLE_DIFFUSION_XL,
    "WanPipeline": WAN,
}
"""The pipelines that are known, by the name of their class; a new family is one more entry."""
