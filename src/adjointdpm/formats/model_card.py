"""The README.md beside an artefact: what it is, how diffusers loads it, and how it was made."""

from __future__ import annotations

import hashlib
import html
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ..storage import write_text
from .provenance import Provenance

CARD = "README.md"
TAG = "adjointdpm"
TEMPLATE = Path(__file__).with_name("model_card.md")
SEAL = "<!-- written by adjointdpm; sha256 of the text above: {} -->"
"""Ends a card: a card whose text does not match it was edited by hand."""
SEALED = re.compile(re.escape(SEAL).replace(r"\{\}", r"(?P<sum>[0-9a-f]{64})"))
MARKDOWN = re.compile(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w))")
"""What Markdown would not show as it is; an underscore within a word it does."""
PIPELINE = """\
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained({base_model!r}, use_safetensors=True)
"""


@dataclass(frozen=True)
class Artefact:
    """What a model card says of a kind of artefact.

    Args:
        title: the heading, as plain text.
        description: one or two sentences, as plain text.
        snippet: Python that loads and uses it; ``pipe`` is the base model's pipeline there.
        tags: tags for the hub.
    """

    title: str
    description: str
    snippet: str
    tags: tuple[str, ...] = ()


def model_card(
    artefact: Artefact, provenance: Provenance, settings: Mapping[str, Any] | None = None
) -> ModelCard:
    """Return the model card of an artefact, its license left to whoever publishes it.

    Args:
        artefact: what it is.
        provenance: what it was made from.
        settings: how it was made, by name.
    """
    data = ModelCardData(
        base_model=provenance.repository,
        library_name="diffusers",
        tags=["diffusers", TAG, *artefact.tags],
    )
    name = provenance.base_model or "the base model"
    text = plain(name)
    link = f"[{text}](https://huggingface.co/{name})" if provenance.repository else text
    at = f" at revision {plain(provenance.revision)}" if provenance.revision else ""
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=plain(artefact.title),
        description=plain(artefact.description),
        base_model_text=link + at,
        snippet=PIPELINE.format(base_model=name) + artefact.snippet.strip(),
        settings={plain(str(key)): _cell(value) for key, value in (settings or {}).items()},
        versions=", ".join(plain(f"{key} {value}") for key, value in provenance.versions.items()),
    )
    card.text = f"{card.text.rstrip()}\n\n{SEAL.format(_sum(card.text))}\n"
    return card


def write_model_card(
    folder: Path,
    artefact: Artefact,
    provenance: Provenance,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the card as README.md, unless the folder has a README.md that a person wrote.

    What somebody has added to the header of a card of ours (a license, a language, tags) is kept. A
    card whose text was edited is left as it is, with a warning.
    """
    path = folder / CARD
    card = model_card(artefact, provenance, settings)
    if path.is_file():
        present = ModelCard.load(path, ignore_metadata_errors=True)
        header = present.data.to_dict()
        if TAG not in header.get("tags", []):
            return
        if not _is_untouched(present.text):
            warnings.warn(
                f"{path} was edited by hand and is left as it is, so it may not describe what was "
                "saved beside it now. Remove it and save again to have a new one",
                stacklevel=3,
            )
            return
        ours = card.data.to_dict()
        tags = list(dict.fromkeys([*ours["tags"], *header["tags"]]))
        card.data = ModelCardData(**{**header, **ours, "tags": tags})
    write_text(path, str(card))


def plain(text: str) -> str:
    """Return text so that a page of Markdown shows it as it is, on one line.

    >>> plain("<it> costs *2*\\n")
    '&lt;it&gt; costs \\\\*2\\\\*'
    """
    return MARKDOWN.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _sum(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()


def _is_untouched(text: str) -> bool:
    """Return whether the text of a card is the one that was written."""
    seal = SEALED.search(text)
    if seal is None or text[seal.end() :].strip():
        return False
    return seal["sum"] == _sum(text[: seal.start()])


def _cell(value: Any) -> str:
    """Return a value as it can stand in a cell of a table."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text.replace("|", "\\|").replace("`", "'")
