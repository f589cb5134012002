"""How good is a gradient method on a model: the certificate, from a folder and a few settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...assets import load_default
from ...certificate import Certificate, certify
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
from ...pipelines import encode_prompt, from_pipeline, load_pipeline
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


class _MeanSquare(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.square().mean()


def run_certify(config: CertifyConfig) -> Certificate:
    """Certify a gradient method on a pipeline, for the noise and the prompt's embedding.

    Raises:
        ValueError: a setting that the pipeline or the classifier does not know.
    """
    device = choose_device(config.device)
    metric: nn.Module = _MeanSquare()
    pipe: Any
    if config.pipeline is None:
        default = load_default(device=device)
        pipe, metric = default.pipeline, ClassifierLogProbability(default.classifier, config.target)
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
    # The straight-through clamp departs from the derivative on purpose; the true one is compared.
    decode.clamp = "hard"
    cond = encode_prompt(pipe, config.prompt, guidance=config.guidance_scale > 1)
    cond = {name: tensor.detach().requires_grad_() for name, tensor in cond.items()}
    unet = pipe.unet.config
    shape = (1, unet.in_channels, unet.sample_size, unet.sample_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(config.seed)).to(device)
    return certify(
        sampler,
        noise,
        nn.Sequential(decode, metric),
        num_directions=config.num_directions,
        derivatives=config.derivatives,
        by_step=config.by_step,
        seed=config.seed,
        **cond,
    )
