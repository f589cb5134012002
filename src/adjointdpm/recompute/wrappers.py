"""What stands around weights: offloading, sharding, caches, data parallelism."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def is_offloaded(module: nn.Module) -> bool:
    """Say whether accelerate moves weights of the module to the device and away again."""
    return any(hasattr(part, "_hf_hook") for part in module.modules())


def diffusers_hooks(module: nn.Module) -> dict[str, Any]:
    """Return the hooks that diffusers registered in one module, by their names."""
    return dict(getattr(getattr(module, "_diffusers_hook", None), "hooks", {}))


def refuse_moving_weights(owner: nn.Module) -> None:
    """Raise if weights require grad that accelerate moves to the device and away again."""
    if is_offloaded(owner) and any(p.requires_grad for p in owner.parameters()):
        raise ValueError(
            f"the weights of {type(owner).__name__} require grad but are offloaded: they are moved "
            "away after each call, and a gradient would find them elsewhere. Freeze them "
            "(module.requires_grad_(False)) or keep the pipeline on the device (pipe.to(device))"
        )


def refuse_caches(owner: nn.Module, name: str | None = None) -> None:
    """Raise if parts of a diffusers model reuse what they computed in earlier calls.

    Args:
        owner: the model.
        name: how the person knows it; by default by its class.

    Raises:
        ValueError: caching is on.
    """
    name = name or type(owner).__name__
    for part in owner.modules():
        hooks = diffusers_hooks(part)
        stateful = [hook for hook, value in hooks.items() if getattr(value, "_is_stateful", False)]
        if stateful or getattr(part, "is_cache_enabled", False):
            how = f"the hook {stateful[0]!r} of a cache" if stateful else "enable_cache"
            raise ValueError(
                f"{name} reuses outputs of earlier calls ({how}), so that a call cannot be run "
                f"again alone. Turn it off with {name}.disable_cache(), or use adp.Backprop()"
            )


def parallel_wrappers(owner: nn.Module) -> list[nn.Module]:
    """Return the data-parallel wrappers within a module."""
    return [part for part in owner.modules() if isinstance(part, DistributedDataParallel)]


@contextmanager
def passed_on(wrappers: Sequence[Any]) -> Iterator[None]:
    """Let data-parallel wrappers pass their calls on to what they wrap, for a block.

    They expect a backward pass for each call. Here a weight gets one gradient, the total.
    """
    for wrapper in wrappers:
        vars(wrapper)["forward"] = wrapper.module.__call__
    try:
        yield
    finally:
        for wrapper in wrappers:
            vars(wrapper).pop("forward", None)


def announced(wrappers: Sequence[Any], output: Tensor) -> Tensor:
    """Return a tensor as if it came out of data-parallel wrappers, which then average gradients.

    Args:
        wrappers: whose weights it depends on.
        output: the tensor.
    """
    for wrapper in wrappers:
        module, own = wrapper.module, vars(wrapper.module).get("forward")
        vars(module)["forward"] = lambda tensor: tensor
        try:
            output = wrapper(output)
        finally:
            del vars(module)["forward"]
            if own is not None:
                vars(module)["forward"] = own
    return output
