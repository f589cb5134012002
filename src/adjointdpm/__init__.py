"""Gradients through diffusion sampling."""

from . import objectives, solvers
from .assets import load_default
from .denoiser import Denoiser
from .gradients import Backprop, ContinuousAdjoint, Exact, GradientMethod
from .pipelines import encode_prompt, from_pipeline
from .noise import CounterNoise
from .plan import Plan
from .process import Schedule
from .sampler import Sampler
from .version import __version__

__all__ = [
    "Backprop",
    "ContinuousAdjoint",
    "CounterNoise",
    "Denoiser",
    "Exact",
    "GradientMethod",
    "Plan",
    "Sampler",
    "Schedule",
    "__version__",
    "encode_prompt",
    "from_pipeline",
    "load_default",
    "objectives",
    "solvers",
]
