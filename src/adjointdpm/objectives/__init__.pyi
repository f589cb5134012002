"""Differentiable metrics of pictures, and the preprocessing that they need."""

from .classifier import (
    ClassifierLogProbability,
    ClassifierMargin,
    ImageClassifier,
    Preprocessing,
    find_label,
)
from .loading import load_objective
from .objective import Objective, as_objective
from .similarity import PictureDistance
from .views import RandomViews
from .weighted_sum import WeightedSum

__all__ = [
    "ClassifierLogProbability",
    "ClassifierMargin",
    "ImageClassifier",
    "Objective",
    "PictureDistance",
    "Preprocessing",
    "RandomViews",
    "WeightedSum",
    "as_objective",
    "find_label",
    "load_objective",
]
