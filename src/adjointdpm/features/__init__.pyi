"""Preprocessing, networks and features of pictures."""

from .preprocessing import Preprocessing

__all__ = [
    "Preprocessing",
]
