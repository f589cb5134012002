"""The demo."""

from .config import DemoConfig
from .page import write_demo_report
from .run import run_demo

__all__ = [
    "DemoConfig",
    "run_demo",
    "write_demo_report",
]
