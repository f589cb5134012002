"""From a diffusers pipeline to a differentiable sampler and decoder."""

from .adapt import encode_image, encode_prompt, from_pipeline, latent_shape
from .differentiable import differentiable
from .diffusers_private import packs_latents
from .image_to_image import ImageToImageSampler
from .inverting import ImageInversion, invert_images
from .loading import load_pipeline
from .lora import ATTENTION, add_lora
from .offloading import check_offload
from .quiet import quieten_libraries
from .registry import FAMILIES
from .schedulers import scheduler_of
from .sharding import shard
from .trained import freeze, trainable

__all__ = [
    "ATTENTION",
    "FAMILIES",
    "ImageInversion",
    "ImageToImageSampler",
    "add_lora",
    "check_offload",
    "differentiable",
    "encode_image",
    "encode_prompt",
    "freeze",
    "from_pipeline",
    "invert_images",
    "latent_shape",
    "load_pipeline",
    "packs_latents",
    "quieten_libraries",
    "scheduler_of",
    "shard",
    "trainable",
]
