"""What came of it: readings, success rates, distances between sets of pictures."""

from .distance import SetDistance, diversity, set_distance
from .reading import Reading, read_pictures
from .success import SuccessRate, success_rate, wilson_interval

__all__ = [
    "Reading",
    "SetDistance",
    "SuccessRate",
    "diversity",
    "read_pictures",
    "set_distance",
    "success_rate",
    "wilson_interval",
]
