"""Conditioning: what the network is told beside x and the time, as nests of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .per_step import PerStep, is_per_step

NEGATIVE = "negative_"
"""Begins the names of what the unconditional pass of guidance gets."""


def named_leaves(cond: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the leaves of a nest with the names of their places, such as ``['extra']['gain']``.

    Raises:
        ValueError: a container that contains itself, or one nested without measure.
    """
    try:
        return [
            (pytree.keystr(path), leaf) for path, leaf in pytree.tree_flatten_with_path(cond)[0]
        ]
    except RecursionError:
        raise ValueError(
            "the conditioning contains itself, or is nested hundreds of levels deep; pass plain "
            "dicts, lists and tuples of tensors"
        ) from None


def check_conditioning(cond: dict[str, Any], device: torch.device) -> None:
    """Raise unless every tensor of the conditioning can be given to a network and get a gradient.

    Args:
        cond: conditioning, a nest of tensors.
        device: the latents'.

    Raises:
        ValueError: a nest that contains itself, a sparse tensor that requires grad, or one on
            another device.
    """
    for name, leaf in named_leaves(cond):
        if not isinstance(leaf, Tensor):
            continue
        if leaf.requires_grad and not is_dense(leaf):
            raise ValueError(
                f"the conditioning {name} is a {layout_of(leaf)} tensor that requires grad; "
                "gradients are taken for dense tensors: pass its values (or .to_dense()), and "
                "build what the network needs from them inside of it"
            )
        # Numbers and indices may be meant for the host.
        on_host = leaf.device.type == "cpu" and not (leaf.is_floating_point() and leaf.ndim)
        if leaf.device != device and not on_host:
            raise ValueError(
                f"the conditioning {name} is on {leaf.device}, but the noise on {device}; move it "
                f"there with .to({str(device)!r})"
            )


def is_dense(tensor: Tensor) -> bool:
    """Say whether a tensor is an ordinary one: neither sparse nor nested."""
    return tensor.layout == torch.strided and not tensor.is_nested


def layout_of(tensor: Tensor) -> str:
    """Return what a tensor that is not dense is called."""
    return "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")


def split(cond: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is for the conditional pass, and what the other gets in place of it.

    Raises:
        ValueError: a ``negative_<name>`` without its ``<name>``.
    """
    positive = {k: v for k, v in cond.items() if not k.startswith(NEGATIVE)}
    negative = {k[len(NEGATIVE) :]: v for k, v in cond.items() if k.startswith(NEGATIVE)}
    unpaired = set(negative) - set(positive)
    if unpaired:
        raise ValueError(
            f"{NEGATIVE}{min(unpaired)} is given without {min(unpaired)}; both passes need it"
        )
    return positive, negative


def cast(cond: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return the conditioning with its floating-point tensors in a dtype."""
    return pytree.tree_map_only(
        Tensor, lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, cond
    )


def stack(negative: dict[str, Any], positive: dict[str, Any], batch: int) -> dict[str, Any]:
    """Stack two nests of conditioning along the batch, leaving alone what has no batch.

    Args:
        negative: of the first half.
        positive: of the second.
        batch: the length of each half.

    Raises:
        ValueError: two nests that differ in what cannot be stacked.
    """
    negative_leaves, structure = pytree.tree_flatten(negative)
    positive_leaves, positive_structure = pytree.tree_flatten(positive)
    if structure != positive_structure:
        raise ValueError(
            "the conditioning and its negative must be nested alike, but they are "
            f"{positive_structure} and {structure}"
        )
    names = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(positive)[0]]
    stacked = [
        _stack(name, without, with_, batch)
        for name, without, with_ in zip(names, negative_leaves, positive_leaves, strict=True)
    ]
    return pytree.tree_unflatten(stacked, structure)


def _stack(name: str, without: Any, with_: Any, batch: int) -> Any:
    if without is with_:
        shared = not isinstance(with_, Tensor) or with_.ndim == 0 or len(with_) not in (1, batch)
        if shared:
            return with_
    elif not (isinstance(without, Tensor) and isinstance(with_, Tensor)):
        if type(without) is type(with_) and _plain(with_) and without == with_:
            return with_
        raise ValueError(
            f"{NEGATIVE}{name} and {name} differ and are no tensors (they are of type "
            f"{type(without).__name__} and {type(with_).__name__}), so one batch cannot hold both; "
            "pass tensors, or use guidance_passes='sequential'"
        )
    shapes = [tuple(leaf.shape) for leaf in (without, with_)]
    fitting = shapes[0][1:] == shapes[1][1:] and all(s[:1] in ((1,), (batch,)) for s in shapes)
    if not (fitting and is_dense(without) and is_dense(with_)):
        raise ValueError(
            f"the negative one of {name} has the shape {shapes[0]}, and {name} {shapes[1]}. "
            "Batched guidance needs dense tensors of equal shapes that start with the batch of "
            f"{batch}, that of the noise, or with 1. Give as many prompts as noises, or one; pad "
            "what is shorter; or use guidance_passes='sequential'"
        )
    rows = [leaf.expand(batch, *leaf.shape[1:]) for leaf in (without, with_)]
    return torch.cat(rows)


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def halves(answer: Any, batch: int) -> tuple[Any, Any]:
    """Return the two parts of what a network answered to a stacked batch.

    Args:
        answer: a nest; tensors whose length is a multiple of the stacked batch (attention maps
            have a row for each head) are cut, and others are in both parts.
        batch: the length of each half of the batch.
    """

    def is_cut(leaf: Tensor) -> bool:
        return leaf.ndim > 0 and is_dense(leaf) and len(leaf) > 0 and len(leaf) % (2 * batch) == 0

    def part(i: int) -> Any:
        return pytree.tree_map_only(
            Tensor, lambda leaf: leaf.chunk(2)[i] if is_cut(leaf) else leaf, answer
        )

    return part(0), part(1)


def sample_of(cond: dict[str, Any], index: int, batch: int) -> dict[str, Any]:
    """Return the conditioning of one sample: tensors as long as the batch are cut, others kept."""

    def cut(leaf: Any) -> Any:
        if isinstance(leaf, PerStep):
            rows = leaf.values.shape[1:2] == (batch,)
            return PerStep(leaf.values[:, index : index + 1], leaf.timesteps) if rows else leaf
        if isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == batch:
            return leaf[index : index + 1]
        return leaf

    return pytree.tree_map(cut, cond, is_leaf=is_per_step)
