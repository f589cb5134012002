"""What came of it: readings, success rates, distances between sets of pictures."""

from .distance import (
    SetDistance,
    diversity,
    frechet_distance,
    set_distance,
    statistics_distance,
)
from .reading import Reading, read_pictures
from .statistics import (
    FeatureStatistics,
    picture_features,
    read_statistics,
    write_statistics,
)
from .success import SuccessRate, success_rate, wilson_interval

__all__ = [
    "FeatureStatistics",
    "Reading",
    "SetDistance",
    "SuccessRate",
    "diversity",
    "frechet_distance",
    "picture_features",
    "read_pictures",
    "read_statistics",
    "set_distance",
    "statistics_distance",
    "success_rate",
    "wilson_interval",
    "write_statistics",
]
