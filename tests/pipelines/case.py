"""One family of pipelines for the tests: how to build it tiny, how to call the stock one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def call_stock(pipe: Any, call: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Return the latents or pictures of the stock ``call``, which may be without ``no_grad``."""
    return call(pipe, return_dict=False, **arguments)[0]


@dataclass(frozen=True, eq=False)
class Case:
    """A tiny pipeline and the stock call that must agree with ours.

    Args:
        name: as it stands in the table of docs/pipelines.md.
        build: ``(folder) -> pipe``, with random weights, in eval mode, frozen, float32; nothing is
            downloaded, and the folder is for a tokenizer's files.
        stock: ``(pipe, noise, cond) -> arguments`` of the stock call for our noise and cond.
        denoiser: the component whose weights are trained.
        schedulers: other scheduler classes of diffusers that the pipeline runs with, built as
            ``scheduler_class.from_config(pipe.scheduler.config, **settings)``.
        scheduler_settings: settings of them, for those that take them.
        prompt: for `encode_prompt`, and for the stock call; None for unconditional pipelines.
        stock_prompt: ``(prompt) -> arguments`` of the stock call that encodes the prompt itself.
        arguments: of both calls, such as height and width.
        settings: of `from_pipeline` besides these.
        encoding: ``(pipe) -> arguments`` of `encode_prompt` besides these, such as a picture.
        inputs: ``(pipe) -> arguments`` of the sampler besides the conditioning.
        guidance_scale: of both calls; 1 where there is none.
        guided: whether guidance has a negative conditioning.
        call: ``(pipe, call, arguments) -> latents or pictures``, where the stock call takes no
            latents or returns none.
        from_stock: ``(pipe, latents) -> latents`` in our shape, where the stock ones are packed.
        lora_targets: names of layers that get an adapter.
        double: whether the stock pipeline runs in float64.
        numpy: whether the stock call answers in NumPy, whatever it is asked for.
    """

    name: str
    build: Callable[[Path], Any]
    stock: Callable[[Any, Tensor, dict[str, Any]], dict[str, Any]]
    denoiser: str = "unet"
    schedulers: tuple[Any, ...] = ()
    scheduler_settings: dict[str, Any] = field(default_factory=dict)
    prompt: Any = field(default_factory=lambda: ["a b", "c"])
    stock_prompt: Callable[[Any], dict[str, Any]] = lambda prompt: {"prompt": prompt}
    arguments: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    encoding: Callable[[Any], dict[str, Any]] = lambda pipe: {}
    inputs: Callable[[Any], dict[str, Any]] = lambda pipe: {}
    guidance_scale: float = 3.0
    guided: bool = True
    call: Callable[..., Any] = call_stock
    from_stock: Callable[[Any, Tensor], Tensor] = lambda pipe, latents: latents
    lora_targets: tuple[str, ...] = ("to_q", "to_v")
    double: bool = True
    numpy: bool = False

    def __str__(self) -> str:
        return self.name


def randomise_(module: nn.Module, seed: int = 0) -> None:
    """Fill every weight that a constructor left at zero: a zero layer would hide its input."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def finish(pipe: Any) -> Any:
    """Freeze a pipeline's modules, put them into eval mode, and silence it."""
    for component in pipe.components.values():
        if isinstance(component, nn.Module):
            randomise_(component)
            component.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe
