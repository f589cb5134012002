"""Differentiable metrics of pictures, and the preprocessing that they need."""

from .classifier import ClassifierLogProbability, ImageClassifier
from .preprocessing import Preprocessing
from .similarity import PictureDistance
from .views import RandomViews

__all__ = [
    "ClassifierLogProbability",
    "ImageClassifier",
    "PictureDistance",
    "Preprocessing",
    "RandomViews",
]
