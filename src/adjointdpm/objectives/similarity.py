"""How far a picture is from a given one."""

from __future__ import annotations

import torch
from torch import Tensor

from .objective import Objective


class PictureDistance(Objective):
    """The mean squared difference of pixels from a reference picture: smaller is better.

    Args:
        reference: (3, height, width) or (batch, 3, height, width) in [0, 1].
    """

    larger_is_better = False
    reference: Tensor

    def __init__(self, reference: Tensor) -> None:
        super().__init__()
        self.register_buffer("reference", reference.detach(), persistent=False)

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the distances, (batch,), of pictures (batch, 3, height, width) in [0, 1]."""
        if images.shape[1:] != self.reference.shape[-3:]:
            raise ValueError(
                f"pictures of shape {tuple(images.shape[1:])} cannot be compared with a reference "
                f"of shape {tuple(self.reference.shape[-3:])}"
            )
        return (images - self.reference.to(images)).square().flatten(1).mean(1)
