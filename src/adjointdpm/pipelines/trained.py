"""Which weights of a pipeline are trained: none, or those that are named.

What ``from_pretrained`` gives has every weight requiring grad. A gradient of a prompt or of the
noise would then compute the gradients of all weights too, and keep them, though nobody wants them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import nn

Pipe = TypeVar("Pipe")


def freeze(pipe: Pipe) -> Pipe:
    """Let no weight of a pipeline or of a module require grad, and drop the gradients it has.

    What is optimised then is the noise, a prompt or a picture. `load_pipeline` and `load_default`
    give frozen pipelines; those of ``from_pretrained`` are not.

    Args:
        pipe: a pipeline of diffusers, or a part of one.

    Returns:
        The same object.

    Example:
        pipe = adp.freeze(StableDiffusionPipeline.from_pretrained("folder"))
    """
    for module in modules_of(pipe).values():
        for weight in module.parameters():
            weight.requires_grad_(False)
            weight.grad = None
    return pipe


def trainable(pipe: Any, *names: str) -> list[nn.Parameter]:
    """Let the named parts of a pipeline be trained, and nothing else.

    Args:
        pipe: a pipeline of diffusers.
        *names: of components (``"unet"``), or with dots of parts of them
            (``"unet.mid_block"``).

    Returns:
        The weights that require grad now, ready for an optimiser.

    Raises:
        ValueError: there is no such part, it has no weights, or no part is named.

    Example:
        optimizer = torch.optim.AdamW(adp.trainable(pipe, "unet"), lr=1e-5)
    """
    if not names:
        raise ValueError('name the parts to train, as in trainable(pipe, "unet"); for none, freeze')
    weights: dict[int, nn.Parameter] = {}
    for name in names:
        part = _part(pipe, name)
        own: Iterable[nn.Parameter] = part.parameters() if isinstance(part, nn.Module) else [part]
        floating = {id(weight): weight for weight in own if weight.is_floating_point()}
        if not floating:
            raise ValueError(f"{name} has no weights that could be trained")
        weights |= floating
    freeze(pipe)
    for weight in weights.values():
        weight.requires_grad_()
    return list(weights.values())


def _part(pipe: Any, name: str) -> Any:
    first, *rest = name.split(".")
    part: Any = modules_of(pipe).get(first)
    for attribute in rest:
        part = getattr(part, attribute, None)
    if not isinstance(part, nn.Module | nn.Parameter):
        raise ValueError(
            f"{type(pipe).__name__} has no part {name!r} with weights; its components are "
            f"{', '.join(modules_of(pipe))}"
        )
    return part


def modules_of(pipe: Any) -> dict[str, nn.Module]:
    """Return the components of a pipeline that are modules, by name; a module is its own."""
    if isinstance(pipe, nn.Module):
        return {type(pipe).__name__: pipe}
    components = pipe.components.items()
    return {name: part for name, part in components if isinstance(part, nn.Module)}


def warn_of_untrained(pipe: Any, stacklevel: int) -> None:
    """Warn where the weights of a pipeline are as ``from_pretrained`` leaves them.

    That is told by its autoencoder, all of whose weights require grad: one who trains other parts
    has frozen it (`trainable`), and decoders are hardly ever trained through sampling.

    Args:
        pipe: the pipeline.
        stacklevel: of the line that is shown, counted from the caller.
    """
    if not torch.is_grad_enabled():
        return
    whole = {name: part for name, part in modules_of(pipe).items() if _requires_grad(part)}
    if not any(hasattr(part, "decode") for part in whole.values()):
        return
    weights = [weight for part in whole.values() for weight in part.parameters()]
    counts = ", ".join(f"{name} ({len(list(part.parameters()))})" for name, part in whole.items())
    warnings.warn(
        f"all weights of {counts} require grad, as from_pretrained leaves them: each gradient "
        "computes theirs as well (about 4 network passes a call in place of 3, with Exact) and "
        f"keeps {sum(w.nbytes for w in weights) / 2**20:.3g} MiB of them. If you do not train "
        'them, say so first: adp.freeze(pipe), or adp.trainable(pipe, "unet") for what you train',
        stacklevel=stacklevel + 1,
    )


def _requires_grad(module: nn.Module) -> bool:
    """Say whether all weights of a module require grad, and there are any."""
    weights = list(module.parameters())
    return bool(weights) and all(weight.requires_grad for weight in weights)
