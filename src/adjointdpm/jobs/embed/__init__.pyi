"""Teaching a word."""

from .config import EmbedConfig
from .page import write_embed_report
from .results import EmbedResult
from .run import run_embed

__all__ = [
    "EmbedConfig",
    "EmbedResult",
    "run_embed",
    "write_embed_report",
]
