"""Gradients through the stock call of any diffusers pipeline, whatever its scheduler.

`differentiable` takes nothing apart: the pipeline runs its own code with gradients on. Steps of
schedulers are ordinary operators on latents, which are small. What is large is the network's
activations, and those are computed again in the backward pass, one call at a time.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..decoding import Clamp, bounded_decode, to_unit_range
from ..gradients import Cut, Exact, GradientMethod
from ..recompute import Handler, Recompute, intercepted, is_offloaded, own_class
from .diffusers_private import announced_steps
from .offloading import check_offload

NOT_DIFFERENTIABLE = ("pil", "np")


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
    denoisers, LoRA adapters among them. Freeze what is not trained
    (``pipe.unet.requires_grad_(False)``): weight gradients cost as much as all others together.
    The pictures are the same tensors that the pipeline gives outside with ``output_type="pt"``.

    The pipeline is changed for this thread or task only, until the end of the block. Gradients may
    be taken after it. A safety checker runs as always; pictures that it blacks out get no gradient.
    Autoencoders that clamp by themselves (Wan, Qwen-Image) do so here, with a clamp's gradient.
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
            supported. Calls must say ``output_type="pt"`` or ``"latent"``.

    Example:
        with adp.differentiable(pipe):
            images = pipe("a cat", latents=noise, output_type="pt").images
        objective(images).backward()
    """
    if not isinstance(pipe, DiffusionPipeline):
        raise ValueError(f"{type(pipe).__name__} is not a diffusers pipeline")
    _refuse_combinations(pipe)
    check_offload(pipe)
    gradient = gradient if gradient is not None else Exact()
    _check_method(gradient)
    _denoisers(pipe, denoisers)
    methods = _without_no_grad(own_class(pipe))
    call = methods.pop("__call__", own_class(pipe).__call__)
    plain = gradient.graph_budget == math.inf

    def sample(stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        _check_output_type(call, pipe, args, kwargs)
        if plain:
            _refuse_offloaded(pipe, _denoisers(pipe, denoisers))
        steps = None if gradient.cut is None else _Steps(pipe, gradient.cut)
        with ExitStack() as stack:
            stack.enter_context(intercepted(_clamp_handlers(pipe, clamp)))
            if not plain:
                for vae in _autoencoders(pipe):
                    stack.enter_context(bounded_decode(vae, slice_size, checkpoint_blocks))
                modules = _denoisers(pipe, denoisers)
                stack.enter_context(intercepted(_network_handlers(modules, gradient, steps)))
            if steps is not None:
                steps.follow(pipe.scheduler, stack)
            try:
                result = call(pipe, *args, **kwargs)
            finally:
                _detach_state(pipe.scheduler)
        if steps is not None:
            steps.check_count()
        return result

    handlers = {(pipe, name): _in_place_of(pipe, method) for name, method in methods.items()}
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
    modules: Sequence[nn.Module], gradient: GradientMethod, steps: _Steps | None
) -> dict[tuple[Any, str], Handler]:
    recompute = Recompute(int(gradient.graph_budget))

    def handler(module: nn.Module) -> Handler:
        def run(stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return recompute(stock, module, args, kwargs)

        return run if steps is None else partial(steps.network, run)

    return {(module, "__call__"): handler(module) for module in modules}


def _without_no_grad(cls: type) -> dict[str, Callable[..., Any]]:
    """Return the methods of a pipeline that are decorated to run without gradients, undecorated."""
    methods = {}
    for name in dir(cls):
        function = inspect.getattr_static(cls, name)
        if inspect.isfunction(function) and hasattr(function, "__wrapped__"):
            context = inspect.getclosurevars(function).nonlocals.get("ctx_factory")
            if isinstance(getattr(context, "__self__", None), torch.no_grad | torch.inference_mode):
                methods[name] = function.__wrapped__
    return methods


def _refuse_combinations(pipe: Any) -> None:
    inner = [name for name, value in vars(pipe).items() if isinstance(value, DiffusionPipeline)]
    if inner:
        raise ValueError(
            f"{type(pipe).__name__} is made of other pipelines ({', '.join(inner)}) and passes "
            "pictures between them as it likes. Make each differentiable and call it yourself: "
            f"with adp.differentiable(pipe.{inner[0]}): ..."
        )


def _check_method(gradient: GradientMethod) -> None:
    if gradient.needs_plan:
        raise ValueError(
            f"{gradient!r} needs the table of the sampler, which differentiable does not read: use "
            "adp.from_pipeline(pipe, gradient=...). Here, take Exact() with a memory_budget or "
            "none, Truncated or Backprop; offload and max_latents need the table too"
        )


def _check_output_type(
    call: Callable[..., Any], pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    bound = inspect.signature(call).bind(pipe, *args, **kwargs)
    bound.apply_defaults()
    output_type = bound.arguments.get("output_type")
    if output_type in NOT_DIFFERENTIABLE:
        raise ValueError(
            f'output_type="{output_type}" has no gradient: call the pipeline with '
            'output_type="pt" (pictures) or "latent" inside adp.differentiable'
        )


def _refuse_offloaded(pipe: Any, modules: Sequence[nn.Module]) -> None:
    if any(is_offloaded(module) for module in (*modules, *_autoencoders(pipe))):
        raise ValueError(
            "Backprop keeps graphs of networks that are offloaded, which are moved away while the "
            "graphs still need their weights. Use adp.Exact()"
        )


def _original(module: Any) -> Any:
    """Return the module within one that torch.compile or data parallelism wraps."""
    if hasattr(module, "_orig_mod"):
        return _original(module._orig_mod)
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return _original(module.module)
    return module


def _autoencoders(pipe: Any) -> list[Any]:
    models = (_original(component) for component in pipe.components.values())
    return [model for model in models if isinstance(model, ModelMixin) and hasattr(model, "decode")]


def _denoisers(pipe: Any, names: Sequence[str] | None) -> list[nn.Module]:
    """Return the components that are called in the loop.

    Raises:
        ValueError: there are none, or one is not a module, or keeps a cache between calls.
    """
    components = pipe.components
    if names is None:
        models = {name: _original(component) for name, component in components.items()}
        names = [
            name
            for name, model in models.items()
            if isinstance(model, ModelMixin) and not hasattr(model, "decode")
        ]
    denoisers = [components.get(name) for name in names]
    for name, module in zip(names, denoisers, strict=True):
        if not isinstance(module, nn.Module):
            raise ValueError(
                f"{type(pipe).__name__} has no module {name!r}; it has {', '.join(components)}"
            )
        if getattr(_original(module), "is_cache_enabled", False):
            raise ValueError(
                f"{name} reuses outputs of earlier calls (enable_cache), so that a call cannot be "
                f"run again alone. Turn it off with pipe.{name}.disable_cache()"
            )
    if not denoisers:
        raise ValueError(
            f"no denoiser was found among {', '.join(components)}; name it: "
            'adp.differentiable(pipe, denoisers=("unet",))'
        )
    return [module for module in denoisers if module is not None]


def _clamp_handlers(pipe: Any, clamp: Clamp) -> dict[tuple[Any, str], Handler]:
    def denormalize(stock: Callable[..., Any], images: Any) -> Any:
        if isinstance(images, Tensor) and images.requires_grad:
            return to_unit_range(images, clamp)
        return stock(images)

    processors = (value for value in vars(pipe).values() if isinstance(value, VaeImageProcessor))
    return {(processor, "denormalize"): denormalize for processor in processors}


class _Steps:
    """Ends the gradient before the last steps of the scheduler, and of copies that are made of it.

    A pipeline that denoises a second latent (the sound of a video) steps it with a copy.
    """

    def __init__(self, pipe: Any, cut: Cut) -> None:
        self._pipe = pipe
        self._cut = cut
        self._done: dict[int, int] = {}

    def follow(self, scheduler: Any, stack: ExitStack) -> None:
        """Stand in for the steps of a scheduler, until the end of the stack."""
        number = len(self._done)
        self._done[number] = 0

        def copied(stock: Callable[..., Any], memo: dict[int, Any]) -> Any:
            twin = stock(memo)
            self.follow(twin, stack)
            return twin

        handlers: dict[tuple[Any, str], Handler] = {
            (scheduler, "step"): partial(self.step, number),
            (scheduler, "__deepcopy__"): copied,
        }
        stack.enter_context(intercepted(handlers))

    def _early(self, number: int = 0) -> bool:
        total = announced_steps(self._pipe)
        if total is None:
            raise ValueError(
                f"{type(self._pipe).__name__} does not say how many steps it takes, so Truncated "
                "cannot count from the end. Use Exact, or adp.from_pipeline"
            )
        return self._done[number] < total - self._cut.last

    def network(self, run: Handler, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the network, whose output is a constant in an early step."""
        if not self._early():
            return run(stock, *args, **kwargs)
        with torch.no_grad():
            return stock(*args, **kwargs)

    def step(self, number: int, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Take a step of a scheduler, whose result is a constant if it is early."""
        constant = self._early(number) and self._cut.detach_latent
        with torch.set_grad_enabled(torch.is_grad_enabled() and not constant):
            result = stock(*args, **kwargs)
        self._done[number] += 1
        return result

    def check_count(self) -> None:
        """Raise if the number of steps was not the one that was announced."""
        total = announced_steps(self._pipe)
        if self._done[0] != total:
            raise ValueError(
                f"{type(self._pipe).__name__} announced {total} steps and took {self._done[0]}, so "
                "that Truncated counted wrongly. Use Exact, or adp.from_pipeline"
            )
