"""What an artefact was made from and with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from ..version import __version__
from .files import Fields, check_fields, metadata_of

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
FIELDS: Fields = {"base_model": str, "revision": str, "pipeline_class": str, "versions": dict}
SNAPSHOT = re.compile(r"[/\\]snapshots[/\\]([0-9a-f]{40})(?:[/\\]|$)")


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide what a sampler computes."""
    return {
        "adjointdpm": __version__,
        "diffusers": diffusers.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


@dataclass(frozen=True)
class Provenance:
    """The model that an artefact belongs to, and the libraries that made it.

    Args:
        base_model: id of the model on the hub, or the name of its folder.
        revision: commit of the model on the hub.
        pipeline_class: name of the diffusers pipeline.
        versions: versions of the libraries, by name.
    """

    base_model: str | None = None
    revision: str | None = None
    pipeline_class: str | None = None
    versions: Mapping[str, str] = field(default_factory=versions)

    @classmethod
    def of(
        cls, pipe: Any, *, base_model: str | None = None, revision: str | None = None
    ) -> Provenance:
        """Return that of a pipeline, as far as the pipeline knows where it was loaded from.

        Args:
            pipe: the pipeline.
            base_model: id on the hub, where the pipeline was loaded from a copy in a folder.
            revision: commit of the model, where it is not the one in the hub's cache.
        """
        if base_model is None:
            name = str(pipe.config.get("_name_or_path") or "")
            # The rest of a local path is nobody else's business.
            local = Path(name).exists() or not REPOSITORY.fullmatch(name)
            base_model = (Path(name).name if local else name) or None
        return cls(base_model, revision or _cached_revision(pipe), type(pipe).__name__)

    @property
    def repository(self) -> str | None:
        """The id on the hub, if ``base_model`` has the form of one."""
        known = self.base_model is not None and REPOSITORY.fullmatch(self.base_model)
        return self.base_model if known else None

    def to_fields(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {"provenance": {**asdict(self), "versions": dict(self.versions)}}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], path: Path) -> Provenance:
        """Return what `to_fields` wrote.

        Raises:
            ValueError: the metadata of the file at ``path`` are of another form.
        """
        check_fields(path, fields, {"provenance": dict})
        found = fields["provenance"] or {}
        check_fields(path, found, FIELDS)
        with metadata_of(path):
            return cls(**found)


def _cached_revision(pipe: Any) -> str | None:
    """Return the commit whose snapshot in the hub's cache the pipeline's parts were read from."""
    for component in pipe.components.values():
        name = str(getattr(getattr(component, "config", None), "_name_or_path", ""))
        if found := SNAPSHOT.search(name):
            return found[1]
    return None
