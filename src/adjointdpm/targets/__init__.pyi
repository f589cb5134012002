"""Classifiers to audit, from wherever they come, and adapters to the field's tools of attack."""

from .art import from_art, to_art
from .foolbox import from_foolbox, to_foolbox
from .imagenet import imagenet_labels
from .loading import TARGETS, load_target
from .noise import NoiseClassifier

__all__ = [
    "TARGETS",
    "NoiseClassifier",
    "from_art",
    "from_foolbox",
    "imagenet_labels",
    "load_target",
    "to_art",
    "to_foolbox",
]
