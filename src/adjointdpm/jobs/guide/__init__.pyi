"""Guiding a sample: pictures of a prompt that a metric likes, without training."""

from .config import GuideConfig
from .page import guide_page, write_guide_report
from .run import GuideResult, run_guide

__all__ = [
    "GuideConfig",
    "GuideResult",
    "guide_page",
    "run_guide",
    "write_guide_report",
]
