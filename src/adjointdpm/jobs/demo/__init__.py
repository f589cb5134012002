"""The demo."""

from .page import write_demo_report
from .run import DemoConfig, run_demo

__all__ = [
    "DemoConfig",
    "run_demo",
    "write_demo_report",
]
