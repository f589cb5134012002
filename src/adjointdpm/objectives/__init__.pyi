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
from .perceptual import PerceptualDistance, feature_distance
from .similarity import PictureDistance, StructuralSimilarity
from .style import GramStyle
from .views import RandomViews
from .weighted_sum import WeightedSum

__all__ = [
    "ClassifierLogProbability",
    "ClassifierMargin",
    "GramStyle",
    "ImageClassifier",
    "Objective",
    "PerceptualDistance",
    "PictureDistance",
    "Preprocessing",
    "RandomViews",
    "StructuralSimilarity",
    "WeightedSum",
    "as_objective",
    "feature_distance",
    "find_label",
    "load_objective",
]
