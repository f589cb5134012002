"""Keeping the libraries' notes on loading away from a progress bar of one's own."""

from __future__ import annotations

import warnings

import diffusers
import transformers


def quieten_libraries() -> None:
    """Have diffusers and transformers print errors only, for the rest of the process."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
