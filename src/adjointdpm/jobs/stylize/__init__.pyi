"""A style, taken from one picture."""

from .config import StylizeConfig
from .goal import Stylization
from .page import stylize_page, write_stylize_report
from .results import StylizeResult
from .run import run_stylize

__all__ = [
    "Stylization",
    "StylizeConfig",
    "StylizeResult",
    "run_stylize",
    "stylize_page",
    "write_stylize_report",
]
