"""A new word: vectors in the space of a text encoder's token embeddings."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..formats import ENCODERS, Provenance, save_learned_embeds
from ..pipelines import encode_prompt


class Word:
    """A word that a pipeline does not have, with vectors that can be optimised.

    The vectors enter where the token embeddings of words do, as in textual inversion
    (arXiv 2208.01618), so that they take part in any prompt. Nothing of the pipeline is changed:
    it knows the word within `spoken` only.

    Args:
        pipe: a pipeline that ``load_textual_inversion`` works on, with one CLIP text encoder or
            SDXL's two.
        token: how prompts write the word, such as ``"<it>"``.
        initializer_token: the words whose vectors it starts from, repeated as often as needed.
        num_vectors: number of vectors; diffusers calls the further ones ``<it>_1`` and so on, and
            puts them into prompts by itself.
        max_distance: how far `project` lets a vector go from the one that it started as, as a share
            of that one's length; None for any distance.

    Raises:
        ValueError: a number out of range, a pipeline without such encoders, a token that is a word
            already or that the tokenizer would split, or an initializer that it does not know.
    """

    def __init__(
        self,
        pipe: Any,
        token: str,
        initializer_token: str,
        num_vectors: int = 1,
        *,
        max_distance: float | None = None,
    ) -> None:
        if num_vectors < 1:
            raise ValueError(f"num_vectors must be at least 1, not {num_vectors}")
        if max_distance is not None and not max_distance > 0:
            raise ValueError(f"max_distance must be positive or None, not {max_distance}")
        if not token or token.split() != [token]:
            raise ValueError(f"the word {token!r} must be one piece of text without spaces")
        self.pipe = pipe
        self.token = token
        tokens = [token, *(f"{token}_{i}" for i in range(1, num_vectors))]
        self._tokenizers: dict[str, Any] = {}
        self._ids: dict[str, Tensor] = {}
        self.tensors: dict[str, Tensor] = {}
        for suffix in _encoders(pipe):
            tokenizer = copy.deepcopy(getattr(pipe, f"tokenizer{suffix}"))
            encoder = getattr(pipe, f"text_encoder{suffix}")
            start = _embeddings_of(initializer_token, tokenizer, encoder)
            ids = tokenizer.encode(token, add_special_tokens=False)
            is_word = len(ids) == 1 and ids[0] != tokenizer.unk_token_id
            if is_word or tokenizer.add_tokens(tokens) != len(tokens):
                raise ValueError(
                    f"the tokenizer knows {token} or one of its further tokens already; choose "
                    "another placeholder_token"
                )
            name = f"text_encoder{suffix}"
            self._tokenizers[f"tokenizer{suffix}"] = tokenizer
            self._ids[name] = torch.tensor(
                tokenizer.convert_tokens_to_ids(tokens), device=start.device
            )
            rows = start[torch.arange(num_vectors) % len(start)]
            self.tensors[name] = rows.clone().requires_grad_()
        self._max_distance = max_distance
        self._start = {name: rows.detach().clone() for name, rows in self.tensors.items()}

    @contextmanager
    def spoken(self) -> Iterator[None]:
        """Let the pipeline know the word for the length of the block, differentiably.

        One thread at a time: the tokenizers and the token embeddings are replaced meanwhile.
        """
        before = {name: getattr(self.pipe, name) for name in self._tokenizers}
        encoders = {name: getattr(self.pipe, name) for name in self.tensors}
        embeddings = {name: encoder.get_input_embeddings() for name, encoder in encoders.items()}
        try:
            for name, tokenizer in self._tokenizers.items():
                setattr(self.pipe, name, tokenizer)
            for name, encoder in encoders.items():
                with_word = _WithWord(embeddings[name], self._ids[name], self.tensors[name])
                encoder.set_input_embeddings(with_word)
            yield
        finally:
            for name, encoder in encoders.items():
                encoder.set_input_embeddings(embeddings[name])
            for name, tokenizer in before.items():
                setattr(self.pipe, name, tokenizer)

    def encode(self, prompt: list[str], **arguments: Any) -> dict[str, Any]:
        """Return the conditioning of prompts with the word; see `adjointdpm.encode_prompt`.

        Args:
            prompt: one prompt for each sample.
            **arguments: further arguments of `adjointdpm.encode_prompt`.
        """
        with self.spoken():
            return encode_prompt(self.pipe, prompt, **arguments)

    @torch.no_grad()
    def project(self) -> None:
        """Bring vectors back that are longer than those they started from, or too far from them.

        A metric's gradient lengthens them without end, and the encoder has seen no such words. Far
        from all words it may take them for one thing in one prompt and for another in the next.
        """
        for name, rows in self.tensors.items():
            start = self._start[name]
            length = start.norm(dim=1, keepdim=True)
            rows.copy_(_within(rows, length))
            if self._max_distance is not None:
                rows.copy_(start + _within(rows - start, self._max_distance * length))

    def save(
        self,
        folder: str | Path,
        *,
        provenance: Provenance | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Path:
        """Save the word as ``pipe.load_textual_inversion`` loads it; see `save_learned_embeds`."""
        found = [rows.detach() for rows in self.tensors.values()]
        embeds = found[0] if len(found) == 1 else dict(zip(ENCODERS, found, strict=True))
        return save_learned_embeds(
            folder, {self.token: embeds}, provenance=provenance, settings=settings
        )


def _within(rows: Tensor, length: Tensor) -> Tensor:
    """Return rows, those that are longer scaled to a length, (rows, 1)."""
    return rows * (length / rows.norm(dim=1, keepdim=True)).clamp(max=1)


class _WithWord(nn.Module):
    """Token embeddings with further rows that need not be weights of the encoder.

    Args:
        embeddings: the encoder's own.
        ids: (num_vectors,) ids of the further rows, beyond its vocabulary.
        rows: (num_vectors, dim) the further rows.
    """

    def __init__(self, embeddings: nn.Module, ids: Tensor, rows: Tensor) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.ids = ids
        # As an entry of a list it is no weight of the encoder, whoever looks for those.
        self.rows = [rows]

    @property
    def weight(self) -> Tensor:
        """The encoder's own rows, which some encoders ask for their dtype."""
        return cast(Tensor, self.embeddings.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings, (..., dim), of token ids."""
        found = ids[..., None] == self.ids
        is_new = found.any(-1)
        known: Tensor = self.embeddings(ids.masked_fill(is_new, 0))
        rows = self.rows[0].to(known.dtype)[found.int().argmax(-1)]
        return torch.where(is_new[..., None], rows, known)


def _encoders(pipe: Any) -> list[str]:
    """Return the suffixes of a pipeline's text encoders.

    Raises:
        ValueError: they are not those that ``load_textual_inversion`` and its files know.
    """
    suffixes = [s for s in ("", "_2", "_3") if getattr(pipe, f"text_encoder{s}", None) is not None]
    encoders = [getattr(pipe, f"text_encoder{suffix}") for suffix in suffixes]
    usual = suffixes in ([""], ["", "_2"]) and all(
        type(encoder).__name__.startswith("CLIPText") for encoder in encoders
    )
    if not usual or not hasattr(pipe, "load_textual_inversion"):
        found = ", ".join(type(encoder).__name__ for encoder in encoders) or "none"
        raise ValueError(
            "a word needs a pipeline with load_textual_inversion and one CLIP text encoder, or "
            f"SDXL's two; {type(pipe).__name__} has {found}. Its prompt embeddings can be "
            "optimised all the same: set variable to prompt_embeds"
        )
    return suffixes


def _embeddings_of(text: str, tokenizer: Any, encoder: nn.Module) -> Tensor:
    """Return the token embeddings of words, (tokens, dim), in float32."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    if not ids or tokenizer.unk_token_id in ids:
        raise ValueError(f"the tokenizer knows no initializer_token {text!r}; choose a usual word")
    weight: Tensor = encoder.get_input_embeddings().weight  # type: ignore[operator]
    return weight.detach()[ids].float()
