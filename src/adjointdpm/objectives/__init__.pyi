"""Differentiable metrics of pictures, and the preprocessing that they need."""

from .aesthetic import AestheticScore, load_aesthetic_head
from .classifier import (
    ClassifierLogProbability,
    ClassifierMargin,
    ImageClassifier,
    Preprocessing,
    find_label,
)
from .clip import ImageSimilarity, ImageTextModel, TextSimilarity
from .derived import Thresholded, Transformed
from .loading import load_by_name, load_objective
from .objective import Objective, as_objective
from .perceptual import PerceptualDistance, feature_distance
from .similarity import PictureDistance, StructuralSimilarity
from .style import GramStyle
from .views import AveragedViews, RandomCutouts, RandomViews
from .weighted_sum import WeightedSum

__all__ = [
    "AestheticScore",
    "AveragedViews",
    "ClassifierLogProbability",
    "ClassifierMargin",
    "GramStyle",
    "ImageClassifier",
    "ImageSimilarity",
    "ImageTextModel",
    "Objective",
    "PerceptualDistance",
    "PictureDistance",
    "Preprocessing",
    "RandomCutouts",
    "RandomViews",
    "StructuralSimilarity",
    "TextSimilarity",
    "Thresholded",
    "Transformed",
    "WeightedSum",
    "as_objective",
    "feature_distance",
    "find_label",
    "load_aesthetic_head",
    "load_by_name",
    "load_objective",
]
