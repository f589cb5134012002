"""Models of transformers, read whole: the library makes up what weights a file lacks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .files import refuse_pickled_weights


def load_whole_model(auto_class: Any, folder: str | Path) -> Any:
    """Load a folder written by ``save_pretrained``, in float32, frozen, in evaluation mode.

    Args:
        auto_class: class of transformers whose ``from_pretrained`` is called.
        folder: the folder.

    Returns:
        The model.

    Raises:
        ValueError: the weights are pickled, or some are missing.
        FileNotFoundError: the folder holds no model.
    """
    refuse_pickled_weights(folder)
    if Path(folder).is_dir() and not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no config.json, so it is no model of transformers; save one there "
            "with save_pretrained"
        )
    model, found = auto_class.from_pretrained(
        folder,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    refuse_missing_weights(found, folder, type(model).__name__)
    return model.eval().requires_grad_(False)


def refuse_missing_weights(found: Mapping[str, Any], source: str | Path, model: str) -> None:
    """Raise if weights of a model were not read, but made at random.

    Args:
        found: what ``from_pretrained(..., output_loading_info=True)`` says.
        source: where the model was read from.
        model: what it is called.

    Raises:
        ValueError: they were.
    """
    # Batches that were seen in training are counted there, and nothing reads the count.
    missing = sorted(k for k in found["missing_keys"] if not k.endswith("num_batches_tracked"))
    if missing:
        named = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        raise ValueError(
            f"{source} lacks {len(missing)} weights of its {model} ({named}); they would be random "
            "numbers. Either it was not wholly written or downloaded, or it holds a model of "
            "another class, or this release of transformers names the weights differently. A part "
            "of a pipeline that you loaded yourself can be passed to load_pipeline by its name"
        )
