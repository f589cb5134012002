"""The tensors of a module, and others in their places for the time of a call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .settings import INTERNAL


@dataclass(frozen=True)
class Place:
    """Where a tensor is found: an entry of a dict or a list of a part.

    Args:
        holder: the dict or list.
        key: of the entry.
        name: the tensor's, for messages.
    """

    holder: Any
    key: Any
    name: str


class Places:
    """Where a module and its parts keep their weights and buffers.

    Args:
        owner: the module.
    """

    def __init__(self, owner: nn.Module) -> None:
        self.weights: list[Place] = []
        self.buffers: list[Place] = []
        self.statistics: list[int] = []
        """Which buffers are running statistics: they move without a new version."""
        known: set[int] = set()
        for prefix, part in owner.named_modules():
            dot = f"{prefix}." if prefix else ""
            for key, weight in part._parameters.items():
                if weight is not None:
                    self.weights.append(Place(part._parameters, key, dot + key))
                    known.add(id(weight))
            for key, buffer in part._buffers.items():
                if buffer is not None:
                    if hasattr(part, "track_running_stats"):
                        self.statistics.append(len(self.buffers))
                    self.buffers.append(Place(part._buffers, key, dot + key))
        for prefix, part in owner.named_modules():
            self.weights += _other_places(part, prefix, known)

    def leave_alone(self, places: Sequence[Place]) -> None:
        """Take no tensor out of the places of some weights, which somebody else exchanges."""
        others = {id(place) for place in places}
        self.weights = [place for place in self.weights if id(place) not in others]

    def tensors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the weights and the buffers that are there now."""
        return [p.holder[p.key] for p in self.weights], [p.holder[p.key] for p in self.buffers]


def _other_places(part: nn.Module, prefix: str, known: set[int]) -> Iterator[Place]:
    """Yield where a part keeps its weights a second time, as recurrent layers do in a list."""
    for name, value in vars(part).items():
        if name not in INTERNAL and isinstance(value, list | dict):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, entry in items:
                if id(entry) in known:
                    yield Place(value, key, f"{prefix}.{name}[{key!r}]")


@contextmanager
def in_their_places(places: Sequence[Place], tensors: Sequence[Tensor]) -> Iterator[None]:
    """Put tensors into their places for a block.

    Past the modules' own ``__setattr__``, which costs as much as a small layer.
    """
    moved: list[tuple[Place, Tensor]] = []
    try:
        for place, tensor in zip(places, tensors, strict=True):
            present = place.holder[place.key]
            if present is not tensor:
                place.holder[place.key] = tensor
                moved.append((place, present))
        yield
    finally:
        for place, present in reversed(moved):
            place.holder[place.key] = present


class StandIns:
    """Tensors in place of others: leaves that share their memory.

    A graph that is made with them ends in them and knows nothing of the originals, whose hooks
    see the total at the end, once.

    Args:
        originals: tensors as they are found.
    """

    def __init__(self, originals: Sequence[Tensor]) -> None:
        self.originals = originals
        self.dtypes = {tensor.dtype for tensor in originals}
        self.differentiated = list({id(x): x for x in originals if x.requires_grad}.values())
        """The originals that require grad, each once."""
        self.leaves = [_stand_in(tensor) for tensor in self.differentiated]
        """What stands in for them."""
        leaf_of = {id(x): leaf for x, leaf in zip(self.differentiated, self.leaves, strict=True)}
        self.tensors = [leaf_of.get(id(tensor), tensor) for tensor in originals]

    def as_recorded(self) -> list[Tensor]:
        """Return what stands in for all, with constants for what has come to require grad since."""
        pairs = zip(self.tensors, self.originals, strict=True)
        return [x.detach() if x is original and x.requires_grad else x for x, original in pairs]


def _stand_in(tensor: Tensor) -> Tensor:
    # Of the same type, so that what is compiled for one serves for the other.
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach())
    return tensor.detach().requires_grad_()


def writes(tensors: Iterable[Tensor]) -> list[int]:
    """Return how often each tensor was written into; in inference mode nobody counts."""
    return [0 if x.is_inference() else x._version for x in tensors]


@contextmanager
def refusing_writes(refusal: Exception) -> Iterator[None]:
    """Raise an error in place of torch's own where a block writes into a leaf.

    Args:
        refusal: what to raise.
    """
    try:
        yield
    except RuntimeError as error:
        if "leaf Variable that requires grad" not in str(error):
            raise
        raise refusal from error


def versions(tensors: Sequence[Tensor]) -> list[tuple[int, torch.dtype]]:
    """Return what changes where a tensor is written into, or cast."""
    return list(zip(writes(tensors), (x.dtype for x in tensors), strict=True))
