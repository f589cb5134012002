"""Files that are written whole or not at all, and read only if they are what was written."""

from .json_lines import JsonLines, json_line, merge_json_lines, read_json_lines
from .replacing import (
    remove_folder,
    remove_partial,
    replacing,
    replacing_folder,
    write_bytes,
    write_text,
)
from .tensors import METADATA_KEY, read_tensors, write_tensors

__all__ = [
    "METADATA_KEY",
    "JsonLines",
    "json_line",
    "merge_json_lines",
    "read_json_lines",
    "read_tensors",
    "remove_folder",
    "remove_partial",
    "replacing",
    "replacing_folder",
    "write_bytes",
    "write_tensors",
    "write_text",
]
