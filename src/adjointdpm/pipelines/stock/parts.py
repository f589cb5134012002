"""What a pipeline is made of: other pipelines, networks, autoencoders, schedulers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import DiffusionPipeline, ModelMixin
from torch import nn

from ...formats import unwrapped


def pipes_of(pipe: Any) -> list[Any]:
    """Return a pipeline, and those that it is made of."""
    found, pending = [pipe], [pipe]
    while pending:
        for value in vars(pending.pop()).values():
            if isinstance(value, DiffusionPipeline) and not any(value is other for other in found):
                found.append(value)
                pending.append(value)
    return found


def components_of(pipe: Any) -> dict[str, Any]:
    """Return the components of a pipeline, and of those that it is made of, by name."""
    components: dict[str, Any] = {}
    for each in reversed(pipes_of(pipe)):
        components |= each.components
    return components


def autoencoders(pipe: Any) -> list[Any]:
    """Return the autoencoders, without what wraps them."""
    models = (unwrapped(component) for component in components_of(pipe).values())
    return [model for model in models if isinstance(model, ModelMixin) and hasattr(model, "decode")]


def schedulers(pipe: Any) -> list[Any]:
    """Return the schedulers; there may be none."""
    parts = [part for each in pipes_of(pipe) for part in each.components.values()]
    return list({id(part): part for part in parts if hasattr(part, "set_timesteps")}.values())


def denoisers(pipe: Any, names: Sequence[str] | None) -> list[nn.Module]:
    """Return the components that are called in the loop.

    Args:
        pipe: the pipeline.
        names: of them; all models of diffusers by default, save autoencoders.

    Raises:
        ValueError: there are none, or one is not a module.
    """
    components = components_of(pipe)
    if names is None:
        models = {name: unwrapped(component) for name, component in components.items()}
        names = [
            name
            for name, model in models.items()
            if isinstance(model, ModelMixin) and not hasattr(model, "decode")
        ]
    found: list[nn.Module] = []
    for name in names:
        module = components.get(name)
        if not isinstance(module, nn.Module):
            raise ValueError(
                f"{type(pipe).__name__} has no module {name!r}; it has {', '.join(components)}"
            )
        found.append(module)
    if not found:
        raise ValueError(
            f"no denoiser was found among {', '.join(components)}; name it: "
            'adp.differentiable(pipe, denoisers=("unet",))'
        )
    return found
