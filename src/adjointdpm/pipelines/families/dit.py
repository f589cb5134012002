"""DiTPipeline: diffusion transformers that are conditioned on a class.

The conditioning is ``class_labels``, whole numbers that have no gradient. In their place the
network takes ``class_embeds``, what its blocks have in their tables for a label, which can have
one::

    cond = encode_prompt(pipe, ["golden retriever"], class_embeds=True)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...decoding import Decoder
from ..family import Family, Parts, SamplingConfig, Size
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


def take_apart(pipe: Any, config: SamplingConfig) -> Parts:
    """Return the network and the decoder of a DiTPipeline."""
    latent_shape(pipe, config.size)
    return Parts(DiTNetwork(pipe.transformer), Decoder(pipe.vae, pipe.vae.config.scaling_factor))


def latent_shape(pipe: Any, size: Size) -> tuple[int, ...]:
    """Return (channels, height, width) of the latents, of which there is one size only."""
    config = pipe.transformer.config
    side = config.sample_size * 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    if {size.height, size.width} - {None, side}:
        raise ValueError(
            f"this DiTPipeline makes pictures of {side} x {side} pixels, not {size.height} x "
            f"{size.width}: its transformer knows one size"
        )
    return config.in_channels, config.sample_size, config.sample_size


def encode_prompt(
    pipe: Any,
    prompt: int | str | Sequence[int | str],
    negative_prompt: int | str | Sequence[int | str] | None,
    *,
    guidance: bool,
    size: Size,
    class_embeds: bool = False,
) -> dict[str, Tensor]:
    """Return the conditioning of classes; see `adjointdpm.pipelines.encode_prompt`.

    Args:
        pipe: the pipeline.
        prompt: classes, by number or by name.
        negative_prompt: what guidance leads away from; no class by default.
        guidance: whether to return the negative conditioning.
        size: of no effect.
        class_embeds: return the embeddings of the classes, (batch, blocks, dim), not their numbers.
    """
    cond = {"class_labels": _labels(pipe, prompt)}
    if guidance:
        no_class = pipe.transformer.config.num_embeds_ada_norm
        negative = _labels(pipe, no_class if negative_prompt is None else negative_prompt)
        cond["negative_class_labels"] = negative.expand_as(cond["class_labels"])
    if not class_embeds:
        return cond
    tables = [
        block.norm1.emb.class_embedder.embedding_table
        for block in pipe.transformer.transformer_blocks
    ]
    return {
        name.replace("labels", "embeds"): torch.stack([table(labels) for table in tables], 1)
        for name, labels in cond.items()
    }


def _labels(pipe: Any, classes: int | str | Sequence[int | str]) -> Tensor:
    """Return the numbers of classes, (len(classes),)."""
    given = [classes] if isinstance(classes, (int, str)) else classes
    numbers = [pipe.get_label_ids([c])[0] if isinstance(c, str) else c for c in given]
    return torch.tensor(numbers, device=pipe._execution_device)


DIT = Family(take_apart, latent_shape, encode_prompt)
