"""Learned words: the files of textual inversion, which ``pipe.load_textual_inversion`` loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..storage import read_tensors, write_tensors
from .files import check_fields, file_to_read, file_to_write
from .model_card import Artefact, write_model_card
from .provenance import Provenance

KIND = "learned_embeds"
FILE = "learned_embeds.safetensors"
ENCODERS = ("clip_l", "clip_g")
"""SDXL's two text encoders, by the keys that its textual inversion files use."""

Embeds = Tensor | Mapping[str, Tensor]


def save_learned_embeds(
    folder_or_file: str | Path,
    embeds: Mapping[str, Embeds],
    *,
    provenance: Provenance | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Save a learned word as ``pipe.load_textual_inversion(folder, token=token)`` loads it.

    Args:
        folder_or_file: a folder, which also gets a model card, or a path to a .safetensors file.
        embeds: the token, such as ``"<cat>"``, with its vectors in the space of the text encoder's
            token embeddings, (num_vectors, dim) or (dim,). For SDXL's two text encoders,
            ``{"clip_l": ..., "clip_g": ...}`` in their place. One token, since diffusers reads one
            from a file.
        provenance: the model that it was learned for.
        settings: how it was learned, for the model card.

    Returns:
        The file.

    Raises:
        ValueError: there is not exactly one token, or a wrong token or shape.
    """
    if len(embeds) != 1:
        raise ValueError(
            f"diffusers reads one token from a file, but {len(embeds)} are given "
            f"({', '.join(embeds)}): save each into a folder of its own"
        )
    [(token, vectors)] = embeds.items()
    if not token or token.split() != [token]:
        raise ValueError(
            f"the token {token!r} would be split by the tokenizer: leave out the space"
        )
    named = {token: vectors} if isinstance(vectors, Tensor) else dict(vectors)
    if not isinstance(vectors, Tensor) and sorted(named) != sorted(ENCODERS):
        raise ValueError(f"{token} needs vectors for {' and '.join(ENCODERS)}, not {list(named)}")
    rows = {name: _rows(name, tensor) for name, tensor in named.items()}
    if len({len(tensor) for tensor in rows.values()}) != 1:
        raise ValueError(f"both text encoders must get as many vectors for {token}")
    path = file_to_write(folder_or_file, FILE)
    provenance = provenance or Provenance()
    write_tensors(path, KIND, rows, {"token": token, **provenance.to_fields()})
    if path != Path(folder_or_file):
        write_model_card(path.parent, _artefact(token, rows), provenance, settings)
    return path


def load_learned_embeds(
    folder_or_file: str | Path, token: str | None = None
) -> dict[str, Tensor | dict[str, Tensor]]:
    """Load a learned word, from a file of ours or of diffusers' training scripts.

    Args:
        folder_or_file: the file, or a folder with a learned_embeds.safetensors.
        token: name of the word, where another is wanted or the file has none (SDXL files that
            other programs wrote).

    Returns:
        What `save_learned_embeds` took, vectors as (num_vectors, dim).

    Raises:
        ValueError: the file is pickled, or is not one of textual inversion.
        FileNotFoundError: there is none.
    """
    path = file_to_read(folder_or_file, FILE)
    tensors, fields = read_tensors(path)
    if "token" in fields:
        check_fields(path, fields, {"token": str})
    two_encoders = sorted(tensors) == sorted(ENCODERS)
    if not two_encoders and len(tensors) != 1:
        raise ValueError(
            f"{path} is no textual inversion: it holds {len(tensors)} tensors, not one named "
            f"like its token, or {' and '.join(ENCODERS)}"
        )
    token = token or fields.get("token") or (None if two_encoders else next(iter(tensors)))
    if token is None:
        raise ValueError(f"{path} does not tell its token: pass token='<name>'")
    rows = {name: _rows(name, tensor) for name, tensor in tensors.items()}
    return {token: rows if two_encoders else next(iter(rows.values()))}


def _rows(name: str, tensor: Tensor) -> Tensor:
    if tensor.ndim not in (1, 2) or tensor.numel() == 0:
        raise ValueError(
            f"the vectors of {name} must have the shape (num_vectors, dim) or (dim,), not "
            f"{tuple(tensor.shape)}"
        )
    return tensor.reshape(-1, tensor.shape[-1])


def _artefact(token: str, rows: Mapping[str, Tensor]) -> Artefact:
    vectors = len(next(iter(rows.values())))
    if len(rows) == 1:
        snippet = f"""
pipe.load_textual_inversion(".", token={token!r})
image = pipe({f"a picture of {token}"!r}).images[0]
"""
    else:
        snippet = f"""
from safetensors.torch import load_file

words = load_file({FILE!r})
pipe.load_textual_inversion(
    words["clip_l"], token={token!r}, tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder
)
pipe.load_textual_inversion(
    words["clip_g"], token={token!r}, tokenizer=pipe.tokenizer_2, text_encoder=pipe.text_encoder_2
)
image = pipe({f"a picture of {token}"!r}).images[0]
"""
    return Artefact(
        title=f"A learned word: {token}",
        description=(
            f"The word {token}, {vectors} vector{'s' if vectors > 1 else ''} in the space of the "
            "text encoder's token embeddings (textual inversion)."
        ),
        snippet=snippet,
        tags=("textual_inversion", "text-to-image"),
    )
