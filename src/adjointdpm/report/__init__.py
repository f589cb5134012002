"""What a run has to show, as a folder that opens in any browser."""

from .demo import write_demo_report

__all__ = ["write_demo_report"]
