"""What became of it: readings of pictures."""

from .reading import Reading, read_pictures

__all__ = [
    "Reading",
    "read_pictures",
]
