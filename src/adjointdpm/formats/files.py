"""Reading and writing safetensors files: written whole or not at all, and never pickle."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
METADATA_KEY = "adjointdpm"
"""The entry of a file's metadata that holds, as JSON, all that is not a tensor."""


def refuse_pickle(path: str | Path) -> None:
    """Raise if a file is of a kind that is read with pickle, and say how to convert it.

    Pickle runs whatever code the file's author put into it.

    Raises:
        ValueError: it is.
    """
    path = Path(path)
    if path.suffix.lower() not in PICKLED or path.is_dir():
        return
    # transformers calls them pytorch_model.bin and model.safetensors, and asks for the format.
    name = "model" if path.stem == "pytorch_model" else path.stem
    safe = path.with_name(f"{name}.safetensors")
    raise ValueError(
        f"{path} would be read with pickle, which runs any code that is in the file; only "
        "safetensors files are read. If you trust where it comes from, convert it:\n"
        "    from torch import load; from safetensors.torch import save_file\n"
        f"    weights = load({str(path)!r}, map_location='cpu', weights_only=True)\n"
        "    save_file({k: v.contiguous() for k, v in weights.items()}, "
        f"{str(safe)!r}, {{'format': 'pt'}})"
    )


def file_to_write(folder_or_file: str | Path, name: str) -> Path:
    """Return the file that is meant: a path that ends in .safetensors, or ``name`` in a folder.

    Raises:
        ValueError: the path is that of a pickle file.
    """
    path = Path(folder_or_file)
    refuse_pickle(path)
    return path if path.suffix == ".safetensors" else path / name


def file_to_read(folder_or_file: str | Path, name: str) -> Path:
    """Return the file that is meant: the path itself, or ``name`` in a folder.

    Raises:
        ValueError: the file, or all that the folder holds under that name, is pickled.
        FileNotFoundError: there is none.
    """
    path = Path(folder_or_file)
    refuse_pickle(path)
    if path.is_dir():
        for suffix in PICKLED:
            pickled = (path / name).with_suffix(suffix)
            if pickled.is_file() and not (path / name).is_file():
                refuse_pickle(pickled)
        path = path / name
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write beside ``path``, and rename it to ``path`` once all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        partial = Path(folder) / path.name
        yield partial
        os.replace(partial, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_tensors(
    path: Path, kind: str, tensors: Mapping[str, Tensor], fields: Mapping[str, Any]
) -> None:
    """Write a safetensors file.

    Args:
        path: the file.
        kind: what it holds, which `read_tensors` checks.
        tensors: any; they are copied, so that views of one storage can be saved too.
        fields: what is not a tensor; JSON.

    Raises:
        ValueError: a tensor has a value that is not finite, and would only spoil what loads it.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} has values that are not finite; it is not worth saving")
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    metadata = {"format": "pt", METADATA_KEY: json.dumps({"kind": kind, **fields})}
    with replacing(path) as partial:
        save_file(copies, partial, metadata)


def read_tensors(
    path: Path, kind: str | None = None, device: str | torch.device = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a safetensors file.

    Args:
        path: the file.
        kind: what it must hold; None for any file, of whatever origin.
        device: where to put the tensors.

    Returns:
        The tensors, and the fields that `write_tensors` wrote with them, if it did.

    Raises:
        ValueError: it is no safetensors file, or one of another kind.
    """
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None
    fields = json.loads(metadata.get(METADATA_KEY, "{}"))
    found = fields.pop("kind", None)
    if kind is not None and found != kind:
        raise ValueError(
            f"{path} holds {found or 'tensors that were not saved by adjointdpm'}, not {kind}"
        )
    return tensors, fields
