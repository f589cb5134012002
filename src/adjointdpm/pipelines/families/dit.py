"""DiTPipeline: diffusion transformers that are conditioned on a class.

The conditioning is ``class_labels``, whole numbers that have no gradient. In their place the
network takes ``class_embeds``, what its blocks have in their tables for a label, which can have
one::

    cond = encode_prompt(pipe, ["golden retriever"], class_embeds=True)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusers_private import execution_device
from ..family import Conditioning, Family
from ..requests import PromptRequest, SamplingRequest, Size
from .transformers import Transformer


class DiTNetwork(Transformer):
    """DiT's transformer, which takes class labels or embeddings of classes.

    Args:
        transformer: the transformer.
    """

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """Return the prediction for latents ``x`` of shape (batch, channels, height, width).

        Args:
            x: latents.
            t: (batch,) time.
            **cond: ``class_labels``, (batch,), or ``class_embeds``, (batch, blocks, dim), or
                (batch, dim) for all blocks alike, as they are in models trained with one table.

        Raises:
            ValueError: not one of the two is given, or the embeddings cannot be used.
        """
        if len(cond) != 1 or not cond.keys() <= {"class_labels", "class_embeds"}:
            raise ValueError(
                f"give either class_labels or class_embeds, not {', '.join(cond) or 'neither'}"
            )
        embeds = cond.get("class_embeds")
        if embeds is None:
            return super().forward(x, t, **cond)
        labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
        with self._in_place_of_tables(embeds):
            return super().forward(x, t, class_labels=labels)

    @contextlib.contextmanager
    def _in_place_of_tables(self, embeds: Tensor) -> Iterator[None]:
        """Let every block find its embedding, whatever the label."""
        if getattr(self.transformer, "gradient_checkpointing", False):
            raise ValueError(
                "with class_embeds, turn off the transformer's own gradient checkpointing "
                "(pipe.transformer.disable_gradient_checkpointing()): it would run the blocks "
                "again without them. The gradient method saves memory as well"
            )
        blocks: Any = self.transformer.transformer_blocks
        if embeds.ndim == 2:
            embeds = embeds[:, None].expand(-1, len(blocks), -1)
        if embeds.shape[1] != len(blocks):
            raise ValueError(
                f"class_embeds must be of shape (batch, {len(blocks)}, dim), one for each block, "
                f"or (batch, dim), not {tuple(embeds.shape)}"
            )
        with contextlib.ExitStack() as stack:
            for block, value in zip(blocks, embeds.unbind(1), strict=True):
                table = block.norm1.emb.class_embedder
                hook = table.register_forward_hook(lambda *_, value=value: value)
                stack.callback(hook.remove)
            yield


@dataclass(frozen=True)
class ClassOptions:
    """How classes are told to the network.

    Args:
        class_embeds: by their embeddings, (batch, blocks, dim), and not by their numbers.
    """

    class_embeds: bool = False


class DiT(Family):
    """DiTPipeline."""

    def network(self, request: SamplingRequest) -> nn.Module:
        """Return the transformer."""
        self.latent_shape(request.size)
        return DiTNetwork(self.pipe.transformer)

    def latent_shape(self, size: Size) -> tuple[int, ...]:
        """Return (channels, height, width) of the latents, of which there is one size only."""
        config = self.pipe.transformer.config
        side = config.sample_size * 2 ** (len(self.pipe.vae.config.block_out_channels) - 1)
        if {size.height, size.width} - {None, side}:
            raise ValueError(
                f"this DiTPipeline makes pictures of {side} x {side} pixels, not {size.height} x "
                f"{size.width}: its transformer knows one size"
            )
        return config.in_channels, config.sample_size, config.sample_size

    def encode(self, request: PromptRequest) -> tuple[Conditioning, Conditioning]:
        """Return the conditioning of classes, by number or by name; the negative is no class."""
        options, request = request.split(ClassOptions)
        request.take_no_more()
        negative = request.negative_prompt
        if negative is None:
            negative = self.pipe.transformer.config.num_embeds_ada_norm
        labels = self._labels(request.prompt)
        both = labels, self._labels(negative).expand_as(labels)
        if not options.class_embeds:
            return {"class_labels": both[0]}, {"class_labels": both[1]}
        blocks = self.pipe.transformer.transformer_blocks
        tables = [block.norm1.emb.class_embedder.embedding_table for block in blocks]
        embeds = [torch.stack([table(each) for table in tables], 1) for each in both]
        return {"class_embeds": embeds[0]}, {"class_embeds": embeds[1]}

    def _labels(self, classes: int | str | Sequence[int | str]) -> Tensor:
        """Return the numbers of classes, (len(classes),)."""
        given = [classes] if isinstance(classes, (int, str)) else classes
        numbers = [self.pipe.get_label_ids([c])[0] if isinstance(c, str) else c for c in given]
        return torch.tensor(numbers, device=execution_device(self.pipe))
