"""Which of diffusers' ways to save memory a gradient can go through, and under which conditions."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.hooks import CpuOffload
from torch import nn

from ..recompute import diffusers_hooks
from ..sampler import Sampler

OUTSIDE = ("text_encoder", "image_encoder", "safety_checker")
"""Beginnings of the names of parts that run before or after sampling, not within the gradient."""

INSTEAD = (
    "Load the pipeline without it; pipe.enable_model_cpu_offload() and "
    "pipe.enable_sequential_cpu_offload() work for frozen weights, best together with "
    "pipe.{name}.enable_gradient_checkpointing()"
)
REFUSED = {
    "group_offloading": (
        "pipe.{name} is offloaded in groups (enable_group_offload), which swaps weights under the "
        f"graph that still needs them. {INSTEAD}"
    ),
    "layerwise_casting": (
        "pipe.{name} casts its weights around every call (enable_layerwise_casting), so that they "
        "have another dtype by the time of the backward pass. Load it in bfloat16 instead "
        "(load_pipeline(..., dtype=torch.bfloat16)); latents and adjoints stay in float32"
    ),
}
"""Hooks of diffusers that no graph survives, by the name that diffusers registers them under."""


def check_offload(pipe: Any) -> None:
    """Raise if the weights of a pipeline would be swapped or cast before their gradient is taken.

    Args:
        pipe: the pipeline; only the parts that run in sampling and decoding are looked at.

    Raises:
        ValueError: with what to do instead.
    """
    for name, component in pipe.components.items():
        if not isinstance(component, nn.Module) or name.startswith(OUTSIDE):
            continue
        for module in component.modules():
            for hook in REFUSED.keys() & diffusers_hooks(module).keys():
                raise ValueError(REFUSED[hook].format(name=name))


def guard_offload(sampler: Sampler) -> Sampler:
    """Let a sampler whose network is offloaded refuse what would break, whenever it is called.

    Offloaded weights are on the device during a call only, in tensors that come and go. A gradient
    method that runs the network again in the backward pass finds them there again. A graph that is
    kept until then does not, where the network is offloaded as a whole; and weights that are to be
    trained have no tensor of their own on the device that could receive a gradient.
    """
    if _moving_hooks(sampler.denoiser):
        sampler.register_forward_pre_hook(_refuse_what_breaks)
    return sampler


def _refuse_what_breaks(sampler: Any, args: Any) -> None:
    if not torch.is_grad_enabled():
        return
    moving = _moving_hooks(sampler.denoiser)
    if moving and any(parameter.requires_grad for parameter in sampler.denoiser.parameters()):
        raise ValueError(
            "the network's weights require grad but are offloaded, so they could not receive a "
            "gradient. Freeze them (pipe.unet.requires_grad_(False)), or call "
            "pipe.remove_all_hooks() and move the network to the device; LoRA adapters "
            "(add_lora), gradient checkpointing and an 8-bit optimiser save memory there"
        )
    if any(isinstance(hook, CpuOffload) for hook in moving) and sampler.gradient.keeps_graphs:
        raise ValueError(
            f"{sampler.gradient} keeps graphs of the network, which is moved away while they still "
            "need its weights (enable_model_cpu_offload). Use Exact() without a memory budget, or "
            "pipe.enable_sequential_cpu_offload()"
        )


def _moving_hooks(component: nn.Module) -> list[Any]:
    """Return the hooks of accelerate in a module that move weights to the device and away."""
    found = [getattr(module, "_hf_hook", None) for module in component.modules()]
    single = [each for hook in found for each in getattr(hook, "hooks", (hook,))]
    return [h for h in single if isinstance(h, CpuOffload) or getattr(h, "offload", False)]
