"""How much each layer of a feature network counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def normalized_weights(
    layers: Sequence[str], weights: Mapping[str, float] | None
) -> dict[str, float]:
    """Return weights that sum to one.

    Args:
        layers: names of the layers.
        weights: by layer; None for all the same.

    Raises:
        ValueError: they are not those of the layers, negative, or all zero.
    """
    given = dict.fromkeys(layers, 1.0) if weights is None else dict(weights)
    if set(given) != set(layers):
        raise ValueError(
            f"weights are given for {', '.join(given)}, but the network's layers are "
            f"{', '.join(layers)}: give one for each, or choose layers with network.at([...])"
        )
    total = sum(given.values())
    if min(given.values()) < 0 or not 0 < total < float("inf"):
        raise ValueError(f"weights of layers must be at least 0 and not all 0, not {given}")
    return {name: given[name] / total for name in layers}
