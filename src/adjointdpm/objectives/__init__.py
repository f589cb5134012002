"""Differentiable metrics of pictures, and the preprocessing that they need."""

from ..features import Preprocessing
from .classifier import ClassifierLogProbability, ImageClassifier, find_label
from .similarity import PictureDistance
from .views import RandomViews

__all__ = [
    "ClassifierLogProbability",
    "ImageClassifier",
    "PictureDistance",
    "Preprocessing",
    "RandomViews",
    "find_label",
]
