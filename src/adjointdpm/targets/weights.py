"""Weights of a model from a file that is no pickle."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from ..formats import refuse_pickle


def load_weights(model: nn.Module, file: str | Path) -> None:
    """Put the weights of a safetensors file into a model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a pickle, or holds the weights of another model.
    """
    refuse_pickle(file)
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {file}")
    try:
        model.load_state_dict(load_file(file))
    except RuntimeError as error:
        raise ValueError(f"{file} does not fit {type(model).__name__}: {error}") from error
