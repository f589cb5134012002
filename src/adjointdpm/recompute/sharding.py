"""Weights that ``fully_shard`` spreads over processes, gathers for a call and frees after it.

FSDP brings their gradients home itself: it sums them up over the processes as soon as a part has
been differentiated, and adds them to what the sharded weight has. So such a weight has no stand-in:
it is its own. In a call, graphs end in the gathered weights, which FSDP keeps from call to call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..sharded import is_sharded, sharded_parts
from .tensors import Place


class ShardedWeights:
    """The sharded weights of a module, and what a call finds in their places.

    Args:
        owner: the module.
        places: of its weights. Nothing may be gathered.

    Raises:
        ValueError: a weight is spread over processes, but gathered by nobody within the module.
    """

    def __init__(self, owner: nn.Module, places: list[Place]) -> None:
        found = {
            (id(place.holder), place.key): place
            for place in places
            if is_sharded(place.holder[place.key])
        }
        self._parts = sharded_parts(owner)
        pairs = [pair for part in self._parts for pair in _gathered(part, found)]
        self.places = [place for place, _ in pairs]
        self.tensors: list[Tensor] = [place.holder[place.key] for place in self.places]
        """The weights, as the optimiser knows them."""
        self.gathered = [tensor for _, tensor in pairs]
        """What stands in their places in a call."""
        own = {id(place) for place in self.places}
        for place in found.values():
            if id(place) not in own:
                raise ValueError(
                    f"the weight {place.name} is spread over processes, but no fully_shard within "
                    f"{type(owner).__name__} gathers it for a call. Shard the network itself "
                    "(adp.shard(pipe)), or the sampler as a whole (fully_shard(sampler))"
                )

    @contextmanager
    def freed_after_use(self) -> Iterator[None]:
        """Let each part be freed as soon as it was called, in a block.

        FSDP does so itself, but not within a backward pass: there it takes a call for that of a
        checkpoint, whose own backward pass is next. In a reverse sweep all parts are called
        before the backward pass of any, and all would be gathered at once.
        """
        handles = [part.register_forward_hook(_free) for part in self._parts]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def differentiated(self) -> list[Tensor]:
        """Those that require grad, each once."""
        return list({id(x): x for x in self.tensors if x.requires_grad}.values())


def _free(part: Any, *_: Any) -> None:
    part.reshard()


def _gathered(part: Any, found: dict[tuple[int, Any], Place]) -> Iterator[tuple[Place, Tensor]]:
    """Yield the places of weights that a part gathers, and what it puts there."""
    own = [
        found[key]
        for module in part.modules()
        for name in module._parameters
        if (key := (id(module._parameters), name)) in found
    ]
    sharded = [place.holder[place.key] for place in own]
    part.unshard()
    now = [place.holder[place.key] for place in own]
    part.reshard()
    for place, before, after in zip(own, sharded, now, strict=True):
        if after is not before:
            yield place, after
