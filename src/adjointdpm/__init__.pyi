"""Gradients through diffusion sampling."""

from . import formats, gradients, objectives, pipelines, solvers
from .assets import load_default
from .certificate import Certificate, certify
from .cost import Cost
from .denoiser import Denoiser
from .gradients import (
    Backprop,
    CoarseAdjoint,
    ContinuousAdjoint,
    Exact,
    GradientMethod,
    Observer,
    Reversible,
    Symplectic,
    Truncated,
)
from .guided import StepGuidance, guided_sample
from .inversion import Inversion, invert
from .path import Trajectory
from .per_step import PerStep
from .pipelines import (
    ImageInversion,
    ImageToImageSampler,
    add_lora,
    differentiable,
    encode_image,
    encode_prompt,
    freeze,
    from_pipeline,
    invert_images,
    latent_shape,
    load_pipeline,
    shard,
    trainable,
)
from .plan import CounterNoise, Plan
from .sampler import Sampler, sample_each
from .schedule import Schedule
from .version import __version__

__all__ = [
    "Backprop",
    "Certificate",
    "CoarseAdjoint",
    "ContinuousAdjoint",
    "Cost",
    "CounterNoise",
    "Denoiser",
    "Exact",
    "GradientMethod",
    "ImageInversion",
    "ImageToImageSampler",
    "Inversion",
    "Observer",
    "PerStep",
    "Plan",
    "Reversible",
    "Sampler",
    "Schedule",
    "StepGuidance",
    "Symplectic",
    "Trajectory",
    "Truncated",
    "__version__",
    "add_lora",
    "certify",
    "differentiable",
    "encode_image",
    "encode_prompt",
    "formats",
    "freeze",
    "from_pipeline",
    "gradients",
    "guided_sample",
    "invert",
    "invert_images",
    "latent_shape",
    "load_default",
    "load_pipeline",
    "objectives",
    "pipelines",
    "sample_each",
    "shard",
    "solvers",
    "trainable",
]
