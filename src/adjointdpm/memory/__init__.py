"""Measuring and keeping memory."""

from .keep import Kept, in_place, on_host, parse_bytes
from .measure import LiveMemory, SavedBytes, peak_on

__all__ = [
    "Kept",
    "LiveMemory",
    "SavedBytes",
    "in_place",
    "on_host",
    "parse_bytes",
    "peak_on",
]
