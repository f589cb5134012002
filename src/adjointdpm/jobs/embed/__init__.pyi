"""Teaching a word."""

from .config import EmbedConfig
from .results import EmbedResult
from .run import run_embed

__all__ = [
    "EmbedConfig",
    "EmbedResult",
    "run_embed",
]
