"""Gradients through the stock call of any diffusers pipeline, whatever its scheduler.

`differentiable` takes nothing apart: the pipeline runs its own code with gradients on. Steps of
schedulers are ordinary operators on latents, which are small. What is large is the network's
activations, and those are computed again in the backward pass, one call at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..decoding import Clamp, bounded_decode, to_unit_range
from ..gradients import Exact, GradientMethod
from ..recompute import Handler, Recompute, intercepted, own_class, refuse_caches
from .offloading import check_offload
from .stock import parts
from .stock.checks import check_call, check_method, check_result, refuse_offloaded
from .stock.parts import pipes_of
from .stock.steps import Steps
from .stock.undecorated import without_no_grad
from .trained import warn_of_untrained


@contextmanager
def differentiable(
    pipe: Any,
    gradient: GradientMethod | None = None,
    *,
    denoisers: Sequence[str] | None = None,
    clamp: Clamp = "straight_through",
    slice_size: int | None = 1,
    checkpoint_blocks: bool = True,
) -> Iterator[Any]:
    """Let ``pipe(...)`` be differentiable in this block, with the activations of one network call.

    Everything that a call takes can get a gradient (``latents``, ``prompt_embeds``,
    ``negative_prompt_embeds``, ``ip_adapter_image_embeds``, ...), and so can the weights of the
    denoisers, LoRA adapters among them. Say what is trained with `freeze` or `trainable`: weight
    gradients cost as much as all others together, and ``from_pretrained`` asks for all.
    The pictures are the same tensors that the pipeline gives outside with ``output_type="pt"``.

    The pipeline is changed for this thread or task only, until the end of the block. Gradients may
    be taken after it. A safety checker runs as always; pictures that it blacks out get no gradient.
    Autoencoders that clamp by themselves (Wan, Qwen-Image) do so here, with a clamp's gradient.
    Of a pipeline that is made of others the whole chain is differentiable.
    Latents and their gradients have the dtype that the pipeline gives them: with float16 weights,
    scale the objective, or take `from_pipeline`, which keeps both in float32.

    Args:
        pipe: a diffusers pipeline whose denoisers are modules.
        gradient: `Exact`, the default, runs each network call again in the backward pass, or keeps
            the graphs of as many of the last as its memory budget allows; `Truncated` counts
            steps of the scheduler; `Backprop` keeps all graphs, those of the autoencoder as well,
            and can be differentiated twice. Methods that need the table of the sampler are for
            `from_pipeline`.
        denoisers: names of the components that are run again; all diffusers models by default,
            save autoencoders. What is left out keeps its graphs.
        clamp: what becomes of values outside [0, 1] in the pictures, see `to_unit_range`.
        slice_size: see `Decoder`.
        checkpoint_blocks: see `Decoder`.

    Yields:
        The pipeline itself.

    Raises:
        ValueError: a gradient method, a component or (in a call) an output type that is not
            supported, or a result without a graph. Calls must say ``output_type="pt"`` or
            ``"latent"``.
        TypeError: ``gradient`` is not a gradient method.

    Example:
        with adp.differentiable(pipe):
            images = pipe("a cat", latents=noise, output_type="pt").images
        objective(images).backward()
    """
    if not isinstance(pipe, DiffusionPipeline):
        raise ValueError(f"{type(pipe).__name__} is not a diffusers pipeline")
    check_offload(pipe)
    gradient = gradient if gradient is not None else Exact()
    methods = {id(each): without_no_grad(own_class(each)) for each in pipes_of(pipe)}
    call = methods[id(pipe)].pop("__call__", own_class(pipe).__call__)
    plain = isinstance(gradient, GradientMethod) and gradient.graph_budget == math.inf
    check_method(pipe, call, gradient, plain)
    for module in parts.denoisers(pipe, denoisers):
        if not plain:
            refuse_caches(module)
    warn_of_untrained(pipe, stacklevel=3)  # past the context manager

    def sample(stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        check_call(pipe, call, args, kwargs)
        modules = parts.denoisers(pipe, denoisers)
        if plain:
            refuse_offloaded(pipe, modules)
        steps = None if gradient.cut is None else Steps(pipe, gradient.cut)
        with ExitStack() as stack:
            stack.enter_context(intercepted(_clamp_handlers(pipe, clamp)))
            if not plain:
                for vae in parts.autoencoders(pipe):
                    stack.enter_context(bounded_decode(vae, slice_size, checkpoint_blocks))
                stack.enter_context(intercepted(_network_handlers(modules, gradient, steps)))
            if steps is not None:
                steps.follow(pipe.scheduler, stack)
            try:
                result = call(pipe, *args, **kwargs)
            finally:
                for scheduler in parts.schedulers(pipe):
                    _detach_state(scheduler)
        if steps is not None:
            steps.check_count()
        check_result(pipe, result, (args, kwargs), modules)
        return result

    handlers = {
        (each, name): _in_place_of(each, method)
        for each in pipes_of(pipe)
        for name, method in methods[id(each)].items()
    }
    with intercepted({**handlers, (pipe, "__call__"): sample}):
        yield pipe


def _detach_state(scheduler: Any) -> None:
    """Let a scheduler remember numbers only: a graph could not be copied, and would stay alive."""
    for name, value in vars(scheduler).items():
        if any(isinstance(x, Tensor) and x.requires_grad for x in pytree.tree_leaves(value)):
            detached = pytree.tree_map_only(Tensor, torch.detach, value)
            vars(scheduler)[name] = detached


def _in_place_of(pipe: Any, method: Callable[..., Any]) -> Handler:
    return lambda stock, *args, **kwargs: method(pipe, *args, **kwargs)


def _network_handlers(
    modules: Sequence[nn.Module], gradient: GradientMethod, steps: Steps | None
) -> dict[tuple[Any, str], Handler]:
    recompute = Recompute(int(gradient.graph_budget), copies=True)

    def handler(module: nn.Module) -> Handler:
        def run(stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return recompute(stock, module, *pytree.tree_map_only(Tensor, _kept, (args, kwargs)))

        return run if steps is None else partial(steps.network, run)

    return {(module, "__call__"): handler(module) for module in modules}


def _kept(tensor: Tensor) -> Tensor:
    """Return what a tensor holds now, also after the pipeline has written into it.

    It is copied when that happens, and not before (Kandinsky 5 writes each step into its latents).
    """
    if type(tensor) is not Tensor:
        return tensor
    try:
        return torch._lazy_clone(tensor)
    except RuntimeError:  # memory that torch has not allocated, such as NumPy's
        return tensor.clone()


def _clamp_handlers(pipe: Any, clamp: Clamp) -> dict[tuple[Any, str], Handler]:
    def denormalize(stock: Callable[..., Any], images: Any) -> Any:
        if isinstance(images, Tensor) and images.requires_grad:
            return to_unit_range(images, clamp)
        return stock(images)

    values = (value for each in pipes_of(pipe) for value in vars(each).values())
    processors = (value for value in values if isinstance(value, VaeImageProcessor))
    return {(processor, "denormalize"): denormalize for processor in processors}
