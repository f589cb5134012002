"""What came of it: readings, success rates, distances between sets of pictures."""

from .reading import Reading, read_pictures
from .success import SuccessRate, success_rate, wilson_interval

__all__ = [
    "Reading",
    "SuccessRate",
    "read_pictures",
    "success_rate",
    "wilson_interval",
]
