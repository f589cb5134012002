"""The one command, ``adjointdpm``."""

from .main import main

__all__ = [
    "main",
]
