"""How near a picture is to a given one, pixel by pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from .objective import Objective


class _Compared(Objective):
    """What is compared with a reference picture.

    Args:
        reference: (3, height, width) or (batch, 3, height, width) in [0, 1].
    """

    reference: Tensor

    def __init__(self, reference: Tensor) -> None:
        super().__init__()
        self.register_buffer("reference", reference.detach(), persistent=False)

    def _reference_for(self, images: Tensor) -> Tensor:
        """Return the reference, expanded to the shape of the pictures.

        Raises:
            ValueError: they cannot be compared.
        """
        reference = self.reference.to(images)
        reference = reference if reference.ndim == 4 else reference[None]
        if images.shape[1:] != reference.shape[1:] or len(reference) not in (1, len(images)):
            raise ValueError(
                f"pictures of shape {tuple(images.shape)} cannot be compared with a reference of "
                f"shape {tuple(self.reference.shape)}: sizes must be the same, and references one "
                "for all or one each"
            )
        return reference.expand_as(images)


class PictureDistance(_Compared):
    """The mean squared difference of pixels from a reference picture: smaller is better.

    Args:
        reference: (3, height, width) or (batch, 3, height, width) in [0, 1].
    """

    larger_is_better = False

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the distances, (batch,), of pictures (batch, 3, height, width) in [0, 1].

        Raises:
            ValueError: the pictures have another size or number than the reference.
        """
        return (images - self._reference_for(images)).square().flatten(1).mean(1)


class StructuralSimilarity(_Compared):
    """SSIM with a reference picture, at most 1: larger is better.

    Wang et al., 2004, IEEE Trans. Image Process. 13, with a Gaussian window of 11 pixels; from
    torchmetrics.

    Args:
        reference: (3, height, width) or (batch, 3, height, width) in [0, 1], each side longer than
            5 pixels.
    """

    larger_is_better = True

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the similarities, (batch,), of pictures (batch, 3, height, width) in [0, 1].

        Raises:
            ValueError: the pictures have another size or number than the reference, or are smaller
                than the window.
        """
        from torchmetrics.functional.image import structural_similarity_index_measure  # slow

        reference = self._reference_for(images)
        if min(images.shape[2:]) < 6:
            raise ValueError(
                f"the window of SSIM reaches 5 pixels to each side, so pictures of "
                f"{images.shape[2]} x {images.shape[3]} are too small"
            )
        values = structural_similarity_index_measure(
            images, reference, data_range=1.0, reduction="none"
        )
        assert isinstance(values, Tensor)
        return values.reshape(len(images))
