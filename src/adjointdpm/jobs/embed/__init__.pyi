"""Teaching a word."""

from .config import EmbedConfig
from .page import embed_page, write_embed_report
from .results import EmbedResult
from .run import run_embed

__all__ = [
    "EmbedConfig",
    "EmbedResult",
    "embed_page",
    "run_embed",
    "write_embed_report",
]
