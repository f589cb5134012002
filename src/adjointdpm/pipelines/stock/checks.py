"""What is refused before a pipeline runs, rather than after the whole run or in silence."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...gradients import GradientMethod
from ...recompute import is_offloaded
from .parts import autoencoders, pipes_of

NOT_DIFFERENTIABLE = ("pil", "np")


def check_method(pipe: Any, call: Callable[..., Any], gradient: Any, plain: bool) -> None:
    """Raise unless a gradient method works for the stock call of a pipeline.

    Args:
        pipe: the pipeline.
        call: its undecorated ``__call__``.
        gradient: the method.
        plain: whether it leaves all graphs to autograd.

    Raises:
        TypeError: it is no gradient method.
        ValueError: it is not one for this.
    """
    name = type(pipe).__name__
    if not isinstance(gradient, GradientMethod):
        raise TypeError(f"gradient must be a gradient method such as adp.Exact(), not {gradient!r}")
    if gradient.needs_plan:
        raise ValueError(
            f"{gradient!r} needs the table of the sampler, which differentiable does not read: use "
            "adp.from_pipeline(pipe, gradient=...). Here, take Exact() with a memory_budget or "
            "none, Truncated or Backprop; offload and max_latents need the table too"
        )
    if gradient.cut is not None and len(pipes_of(pipe)) > 1:
        raise ValueError(
            f"{name} is made of other pipelines, so there is no one last step for {gradient!r} to "
            "count from. Use Exact"
        )
    if not plain and "enable_grad" in call.__code__.co_names:
        raise ValueError(
            f"{name} takes gradients of its own between its steps, through what its network leaves "
            "elsewhere than in its answer (attention maps), so that calls of the network must keep "
            "their graphs: adp.differentiable(pipe, adp.Backprop())"
        )


def check_call(
    pipe: Any, call: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> None:
    """Raise unless what a call of a pipeline returns can have a gradient.

    Raises:
        ValueError: it returns pictures of another library, or casts weights on the way.
    """
    bound = inspect.signature(call).bind(pipe, *args, **kwargs)
    bound.apply_defaults()
    output_type = {**bound.arguments, **bound.kwargs}.get("output_type")
    name = type(pipe).__name__
    if output_type in NOT_DIFFERENTIABLE:
        raise ValueError(
            f'output_type="{output_type}" has no gradient: call the pipeline with '
            'output_type="pt" (pictures) or "latent" inside adp.differentiable'
        )
    if output_type != "latent" and _answers_in_numpy(call):
        raise ValueError(
            f"{name} turns what it made into NumPy, whatever the output_type, and that has no "
            "gradient. Use adp.from_pipeline if it knows the pipeline, or build the sampler from "
            "its parts: adp.Sampler(adp.Denoiser(...), adp.Plan.from_scheduler(...))"
        )
    casts = "force_upcast" in call.__code__.co_names and output_type != "latent"
    if casts and any(_is_upcast(vae) for vae in autoencoders(pipe)):
        raise ValueError(
            f"{name} casts its float16 autoencoder to float32 to decode, and back before the "
            "gradient is taken (force_upcast in its config). Load the pipeline in bfloat16, or "
            'with an autoencoder that can do with float16; or ask for output_type="latent" and '
            "decode with adp.from_pipeline's decoder, after pipe.vae.to(torch.float32)"
        )


def _is_upcast(vae: Any) -> bool:
    return vae.dtype == torch.float16 and bool(vae.config.force_upcast)


def _answers_in_numpy(call: Callable[..., Any]) -> bool:
    """Say whether a call ends in ``.numpy()`` without looking at its ``output_type``."""
    try:
        source = textwrap.dedent(inspect.getsource(call))
    except OSError:  # it was typed in, and has no source
        return False
    return any(_unguarded(ast.parse(source)))


def _unguarded(node: ast.AST) -> Iterator[bool]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.If(test=test) if "output_type" in ast.unparse(test):
                continue
            case ast.Call(func=ast.Attribute(attr="numpy")):
                yield True
        yield from _unguarded(child)


def check_result(pipe: Any, result: Any, given: Any, networks: Sequence[nn.Module]) -> None:
    """Raise if nothing in a result has a graph though something was to get a gradient.

    Args:
        pipe: the pipeline.
        result: what its call returned.
        given: the arguments of the call.
        networks: those that it called.

    Raises:
        ValueError: the pipeline has lost the graph.
    """
    wanted = [x for x in pytree.tree_leaves(given) if isinstance(x, Tensor) and x.requires_grad]
    trained = any(weight.requires_grad for module in networks for weight in module.parameters())
    if not torch.is_grad_enabled() or not (wanted or trained):
        return
    answers = [x for x in pytree.tree_leaves(result) if isinstance(x, Tensor)]
    if not any(answer.requires_grad for answer in answers):
        raise ValueError(
            f"what {type(pipe).__name__} returned has no graph, so nothing that requires grad "
            "would get a gradient. The pipeline detaches its latents, draws tokens (as Amused "
            "does), or runs under a torch.no_grad() of its own"
        )


def refuse_offloaded(pipe: Any, modules: Sequence[nn.Module]) -> None:
    """Raise if networks whose graphs are kept are moved away after each call.

    Raises:
        ValueError: some are offloaded.
    """
    if any(is_offloaded(module) for module in (*modules, *autoencoders(pipe))):
        raise ValueError(
            "Backprop keeps graphs of networks that are offloaded, which are moved away while the "
            "graphs still need their weights. Use adp.Exact()"
        )
