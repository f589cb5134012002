"""Which of diffusers' ways to save memory a gradient can go through."""

from __future__ import annotations

from typing import Any

from torch import nn

OUTSIDE = ("text_encoder", "image_encoder", "safety_checker")
"""Beginnings of the names of parts that run before or after sampling, not within the gradient."""

MODEL_OFFLOAD = (
    "is offloaded as a whole (enable_model_cpu_offload): its weights would be moved away while the "
    "graph of an earlier call still needs them. Encode the prompt first (cond = "
    "encode_prompt(pipe, ...)), then call pipe.remove_all_hooks() and move only what sampling runs "
    "to the GPU: pipe.{name}.to('cuda'); text encoders may stay where they are. If that is still "
    "too much, pipe.enable_sequential_cpu_offload() works for frozen weights, best together with "
    "pipe.{name}.enable_gradient_checkpointing()"
)
GROUP_OFFLOAD = (
    "is offloaded in groups (enable_group_offload), which swaps weights under the graph that still "
    "needs them. Load the pipeline without it; pipe.enable_sequential_cpu_offload() works for "
    "frozen weights, best together with pipe.{name}.enable_gradient_checkpointing()"
)
LAYERWISE_CASTING = (
    "casts its weights around every call (enable_layerwise_casting), so that they have another "
    "dtype by the time of the backward pass. Load it in bfloat16 instead "
    "(load_pipeline(..., dtype=torch.bfloat16)); latents and adjoints stay in float32"
)


def check_offload(pipe: Any) -> None:
    """Raise if the weights of a pipeline would be moved away or cast before their gradient.

    Sequential offloading (accelerate's hooks on every layer, and models that are spread over
    devices by ``device_map``) passes: its hooks make new tensors on the device in every call, and
    the graph keeps those.

    Args:
        pipe: the pipeline; only the parts that run in sampling and decoding are looked at.

    Raises:
        ValueError: with what to do instead.
    """
    for name, component in pipe.components.items():
        if not isinstance(component, nn.Module) or name.startswith(OUTSIDE):
            continue
        obstacle = _obstacle(component)
        if obstacle is not None:
            raise ValueError(f"pipe.{name} {obstacle.format(name=name)}")


def _obstacle(component: nn.Module) -> str | None:
    from accelerate.hooks import CpuOffload, SequentialHook

    for module in component.modules():
        hook = getattr(module, "_hf_hook", None)
        hooks = hook.hooks if isinstance(hook, SequentialHook) else (hook,)
        if any(isinstance(each, CpuOffload) for each in hooks):
            return MODEL_OFFLOAD
        registry = getattr(module, "_diffusers_hook", None)
        if registry is not None and registry.get_hook("group_offloading") is not None:
            return GROUP_OFFLOAD
        if registry is not None and registry.get_hook("layerwise_casting") is not None:
            return LAYERWISE_CASTING
    return None
