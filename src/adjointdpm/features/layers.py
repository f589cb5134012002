"""What layers inside of a network give out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from ..recompute import writes


def layer_outputs(model: nn.Module, layers: Sequence[str], *args: Any) -> dict[str, Tensor]:
    """Call a module and return what some of the modules inside of it give out.

    Hooks are on them for the time of the call only, so the model is as it was, and a call that is
    run again in the backward pass collects anew. Nothing is detached.

    Args:
        model: any module.
        layers: their names, as ``model.named_modules()`` gives them.
        args: what the model is called with.

    Returns:
        The outputs by name, in the order of ``layers``; the first entry of those that are tuples.

    Raises:
        ValueError: a layer does not exist, is not called exactly once, gives no tensor, was written
            into by a later layer, or has lost its gradient.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> layer_outputs(model, ["0"], torch.zeros(1, 3, 6, 6))["0"].shape
    torch.Size([1, 8, 4, 4])
    """
    modules = dict(model.named_modules())
    for name in layers:
        if name not in modules:
            near = get_close_matches(name, modules, n=5, cutoff=0.4) or list(modules)[1:11]
            raise ValueError(
                f"{type(model).__name__} has no layer {name!r}; did you mean {', '.join(near)}?"
            )
    calls: dict[str, list[Any]] = {name: [] for name in layers}
    # Another thread that calls the same model at the same time is not meant.
    thread = threading.get_ident()

    def collect(name: str, output: Any) -> None:
        if threading.get_ident() == thread:
            tensor = output[0] if isinstance(output, tuple) else output
            calls[name].append((tensor, writes([tensor]) if isinstance(tensor, Tensor) else None))

    handles = [
        modules[name].register_forward_hook(lambda _m, _i, output, name=name: collect(name, output))
        for name in calls
    ]
    try:
        model(*args)
    finally:
        for handle in handles:
            handle.remove()
    differentiable = torch.is_grad_enabled() and any(
        isinstance(arg, Tensor) and arg.requires_grad for arg in args
    )
    return {name: _checked(name, calls[name], differentiable) for name in layers}


def _checked(name: str, calls: list[Any], differentiable: bool) -> Tensor:
    if len(calls) != 1:
        raise ValueError(
            f"the layer {name!r} was called {len(calls)} times in one call of the model, so it is "
            "not clear which output is meant; name a layer that is called once"
        )
    [(tensor, times_written)] = calls
    if not isinstance(tensor, Tensor):
        raise ValueError(f"the layer {name!r} gives a {type(tensor).__name__}, no tensor")
    if writes([tensor]) != times_written:
        raise ValueError(
            f"what the layer {name!r} gave out was written into by a later one, such as "
            "ReLU(inplace=True); name the later one, or set inplace=False"
        )
    if differentiable and not tensor.requires_grad:
        raise ValueError(
            f"the layer {name!r} passes no gradient on to what the model was called with: it runs "
            "inside of a reentrant checkpoint or a no_grad; switch gradient checkpointing off or "
            "to use_reentrant=False"
        )
    return tensor
