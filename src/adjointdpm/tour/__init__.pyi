"""The demo: a short tour of the jobs on the embedded model."""

from .config import TourConfig
from .page import write_tour_page
from .run import Stop, Tour, run_tour

__all__ = [
    "Stop",
    "Tour",
    "TourConfig",
    "run_tour",
    "write_tour_page",
]
