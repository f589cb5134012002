"""The README.md beside an artefact: what it is, how diffusers loads it, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from .files import write_text
from .provenance import Provenance

CARD = "README.md"
TAG = "adjointdpm"
TEMPLATE = Path(__file__).with_name("model_card.md")
PIPELINE = """\
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained({base_model!r}, use_safetensors=True)
"""


@dataclass(frozen=True)
class Artefact:
    """What a model card says of a kind of artefact.

    Args:
        title: the heading.
        description: one or two sentences.
        snippet: Python that loads and uses it; ``pipe`` is the base model's pipeline there.
        tags: those of the hub.
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
    link = f"[{name}](https://huggingface.co/{name})" if provenance.repository else name
    at = f" at revision `{provenance.revision}`" if provenance.revision else ""
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=artefact.title,
        description=artefact.description,
        base_model_text=link + at,
        snippet=PIPELINE.format(base_model=name) + artefact.snippet.strip(),
        settings={key: _cell(value) for key, value in (settings or {}).items()},
        versions=", ".join(f"{key} {value}" for key, value in provenance.versions.items()),
    )


def write_model_card(
    folder: Path,
    artefact: Artefact,
    provenance: Provenance,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the card as README.md, unless the folder has a README.md that is not ours.

    A license that somebody has put into a card of ours is kept.
    """
    path = folder / CARD
    card = model_card(artefact, provenance, settings)
    if path.is_file():
        present = ModelCard.load(path, ignore_metadata_errors=True).data.to_dict()
        if TAG not in present.get("tags", []):
            return
        data = card.data.to_dict() | {k: v for k, v in present.items() if k.startswith("license")}
        card.data = ModelCardData(**data)
    write_text(path, str(card))


def _cell(value: Any) -> str:
    """Return a value as it can stand in a cell of a table."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text.replace("|", "\\|").replace("`", "'")
