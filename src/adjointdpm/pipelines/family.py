"""What there is to know of a family of pipelines, so that one function can take any apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from ..decoding import Decoder
from ..denoiser import GuidanceScale
from ..gradients import GradientMethod
from ..plan import Plan


@dataclass(frozen=True)
class Size:
    """How large the pictures are; None where the pipeline's own default is meant.

    Args:
        height: of a picture, in pixels.
        width: of a picture, in pixels.
        num_frames: of a video.
    """

    height: int | None = None
    width: int | None = None
    num_frames: int | None = None


@dataclass(frozen=True)
class SamplingConfig:
    """The settings of `from_pipeline`."""

    scheduler: Any
    num_inference_steps: int = 25
    plan: Plan | None = None
    guidance_scale: float = 1.0
    guidance_scale_2: float | None = None
    true_cfg_scale: float = 1.0
    guidance_rescale: float = 0.0
    guidance_passes: Literal["batched", "sequential"] = "batched"
    eta: float = 0.0
    strength: float | None = None
    gradient: GradientMethod | None = None
    size: Size = Size()


@dataclass(frozen=True)
class Parts:
    """What an adapter finds in a pipeline.

    Args:
        network: called as ``network(x, t, **cond)`` with latents of `Family.latent_shape`; it
            returns a tensor of their shape (learned variances cut off, packing undone).
        decoder: from latents to pictures in [0, 1].
        guided: whether guidance is two passes of the network. False where the network takes the
            guidance scale as an input, or has none; then ``true_cfg_scale`` weighs two passes.
        guidance_scale: by the time, where it changes on the way; else that of the config.
        set_timesteps: further arguments of the scheduler's ``set_timesteps``, such as ``mu``.
        rounds_up: whether a ``strength`` that asks for a part of a step gets a whole one, as
            image-to-image of SD3 and Flux does; elsewhere it gets none.
    """

    network: nn.Module
    decoder: Decoder
    guided: bool = True
    guidance_scale: GuidanceScale | None = None
    set_timesteps: Mapping[str, Any] = field(default_factory=dict)
    rounds_up: bool = False


@dataclass(frozen=True)
class Family:
    """How the pipelines of one family are taken apart.

    Args:
        take_apart: ``(pipe, config) -> Parts``.
        latent_shape: ``(pipe, size) -> tuple``, the shape of one sample's latents, without batch.
        encode_prompt: ``(pipe, prompt, negative_prompt, *, guidance, size, **arguments) -> cond``,
            where ``arguments`` are those of the pipeline's own ``encode_prompt``; None for
            unconditional models.
    """

    take_apart: Callable[[Any, SamplingConfig], Parts]
    latent_shape: Callable[[Any, Size], tuple[int, ...]]
    encode_prompt: Callable[..., dict[str, Any]] | None = None
