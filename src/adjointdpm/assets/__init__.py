"""The embedded default: a small text-to-image model of emoji, two classifiers, and their words."""

from .default import (
    ASSETS_VARIABLE,
    Concept,
    Concepts,
    Default,
    assets_folder,
    load_default,
    read_concepts,
)

__all__ = [
    "ASSETS_VARIABLE",
    "Concept",
    "Concepts",
    "Default",
    "assets_folder",
    "load_default",
    "read_concepts",
]
