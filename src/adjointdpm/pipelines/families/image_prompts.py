"""IP-Adapter: embeddings of pictures as a second prompt (arXiv 2308.06721), for any UNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..diffusers_private import execution_device


@dataclass(frozen=True)
class ImagePrompt:
    """Pictures as a second prompt.

    Args:
        ip_adapter_image: one picture, or a list of one for each adapter; a tensor, preprocessed
            for the image encoder, can receive a gradient through it.
        ip_adapter_image_embeds: embeddings in place of pictures, one for each adapter, of shape
            (batch, num_images, dim), with guidance after the negative ones along the batch.
    """

    ip_adapter_image: Any = None
    ip_adapter_image_embeds: list[Tensor] | None = None

    def encode(
        self, pipe: Any, batch_size: int, guidance: bool
    ) -> tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]]:
        """Return what the IP-Adapters of a pipeline add to ``added_cond_kwargs``.

        Args:
            pipe: a pipeline with ``load_ip_adapter``.
            batch_size: number of samples; a single embedding is shared by all.
            guidance: whether the negative embeddings are needed.

        Returns:
            ``{"image_embeds": [...]}`` and its negative; two empty dicts where there is no picture.
        """
        if self.ip_adapter_image is None and self.ip_adapter_image_embeds is None:
            return {}, {}
        embeds = pipe.prepare_ip_adapter_image_embeds(
            self.ip_adapter_image, self.ip_adapter_image_embeds, execution_device(pipe), 1, guidance
        )
        if not guidance:
            return {"image_embeds": [_for_batch(e, batch_size) for e in embeds]}, {}
        pairs = [[_for_batch(half, batch_size) for half in e.chunk(2)] for e in embeds]
        return (
            {"image_embeds": [positive for _, positive in pairs]},
            {"image_embeds": [negative for negative, _ in pairs]},
        )


def _for_batch(embeds: Tensor, batch_size: int) -> Tensor:
    return embeds.expand(batch_size, *embeds.shape[1:]) if len(embeds) == 1 else embeds
