"""How good is a gradient method on a model: the certificate, from a folder and a few settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...assets import load_default
from ...certificate import Certificate, Progress, certify
from ...gradients import (
    Backprop,
    CoarseAdjoint,
    ContinuousAdjoint,
    Exact,
    GradientMethod,
    Reversible,
    Symplectic,
    Truncated,
)
from ...objectives import ClassifierLogProbability
from ...pipelines import encode_prompt, from_pipeline, latent_shape, load_pipeline
from ...runs import choose_device
from .config import CertifyConfig, Method

METHODS: dict[Method, Callable[[int | None], GradientMethod]] = {
    "exact": lambda num_steps: Exact(),
    "backprop": lambda num_steps: Backprop(),
    "continuous": lambda num_steps: ContinuousAdjoint(num_steps=num_steps),
    "resolved": lambda num_steps: ContinuousAdjoint(num_steps=num_steps, trajectory="resolved"),
    "coarse": lambda num_steps: CoarseAdjoint(num_steps or 1),
    "symplectic": lambda num_steps: Symplectic(),
    "reversible": lambda num_steps: Reversible(),
    "truncated": lambda num_steps: Truncated(num_steps or 1),
}
"""The gradient methods, each from a number of reverse steps where it has one."""


TARGET = "rocket"
"""What the embedded classifier is to see where nothing else is asked for."""


class _MeanSquare(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.square().mean()


def run_certify(config: CertifyConfig, progress: Progress | None = None) -> Certificate:
    """Certify a gradient method on a pipeline, for the noise and the prompt's conditioning.

    Args:
        config: settings.
        progress: is told in words what comes next.

    Raises:
        ValueError: a setting that the pipeline or the classifier does not know.
    """
    device = choose_device(config.device)
    metric: nn.Module = _MeanSquare()
    pipe: Any
    if config.pipeline is None:
        default, target = load_default(device=device), config.target or TARGET
        pipe, metric = default.pipeline, ClassifierLogProbability(default.classifier, target)
    else:
        pipe = load_pipeline(config.pipeline).to(device)
    sampler, decode = from_pipeline(
        pipe,
        config.num_inference_steps,
        config.guidance_scale,
        gradient=METHODS[config.method](config.num_steps),
    )
    for module in (sampler, decode, metric):
        module.requires_grad_(False)
    # A straight-through clamp departs from the derivative on purpose, and a hard one has a kink in
    # every white pixel: what is judged is the gradient of the sampler.
    decode.clamp = "none"
    cond = encode_prompt(pipe, config.prompt, guidance=config.guidance_scale > 1.0)
    generator = torch.Generator().manual_seed(config.seed)
    return certify(
        sampler,
        torch.randn(latent_shape(pipe), generator=generator).to(device),
        nn.Sequential(decode, metric),
        num_directions=config.num_directions,
        derivatives=config.derivatives,
        by_step=config.by_step,
        max_error=config.max_error,
        checkpoint=config.checkpoint,
        seed=config.seed,
        progress=progress,
        **pytree.tree_map_only(Tensor, _leaf, cond),
    )


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.is_floating_point())
