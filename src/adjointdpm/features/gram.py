"""Gram matrices: which channels are active together, wherever that is."""

from __future__ import annotations

from torch import Tensor


def gram_matrix(features: Tensor) -> Tensor:
    """Return the products of all pairs of channels, averaged over positions.

    Averages and not sums, so that pictures of any size compare (Gatys et al., 2016, CVPR).

    Args:
        features: (batch, channels, height, width), or (batch, tokens, channels) of a transformer.

    Returns:
        (batch, channels, channels), symmetric.

    Raises:
        ValueError: another number of dimensions.
    """
    channels = by_channel(features)
    return channels @ channels.mT / channels.shape[2]


def by_channel(features: Tensor) -> Tensor:
    """Return features of a layer as (batch, channels, positions).

    Args:
        features: (batch, channels, height, width), (batch, tokens, channels) of a transformer, or
            (batch, channels).

    Raises:
        ValueError: another number of dimensions.
    """
    match features.ndim:
        case 4:
            return features.flatten(2)
        case 3:
            return features.mT
        case 2:
            return features[:, :, None]
    raise ValueError(
        "features must be (batch, channels, height, width), (batch, tokens, channels) or "
        f"(batch, channels), not {tuple(features.shape)}"
    )
