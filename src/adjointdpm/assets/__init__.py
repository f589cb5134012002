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
from .feature_networks import FEATURE_NETWORKS, load_feature_network

__all__ = [
    "ASSETS_VARIABLE",
    "FEATURE_NETWORKS",
    "Concept",
    "Concepts",
    "Default",
    "assets_folder",
    "load_default",
    "load_feature_network",
    "read_concepts",
]
