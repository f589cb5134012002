"""Sharded tensors in files: the sharded format of ``torch.distributed.checkpoint``, in safetensors.

Each process writes what it has into a file of its own, and says in the file where it belongs. Any
number of processes reads what it needs. The format's default files hold pickles, which run code
when they are read; these hold none.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..sharded import is_sharded
from .processes import all_gather, num_processes, process_index, wait_for_processes

BLOCK = 2**24
DIGEST = 32
"""Bytes of a SHA-256."""


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Write sharded tensors; to be called in every process.

    Args:
        folder: the same for all, which is made.
        tensors: by name.

    Returns:
        The files' names and checksums.

    Raises:
        ImportError: this torch cannot.
    """
    dcp = _checkpointing()
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    dcp.save({name: tensor.detach() for name, tensor in tensors.items()}, storage_writer=writer)
    wait_for_processes()
    return checksums(folder, sorted(path.name for path in folder.glob("*.safetensors")))


def read_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors from files; to be called in every process.

    Args:
        folder: of the files.
        tensors: by name: whole, or sharded over as many processes as there are now.

    Raises:
        ImportError: this torch cannot.
    """
    dcp = _checkpointing()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # by one process
        dcp.load(dict(tensors), storage_reader=dcp.HuggingFaceStorageReader(str(folder)))


def checksums(folder: Path, names: list[str]) -> dict[str, str]:
    """Return the checksums of files, of which each process reads some; empty for missing ones."""
    if not names:
        return {}
    count = num_processes()
    own = names[process_index() :: count]
    digests = torch.zeros(-(-len(names) // count), DIGEST, dtype=torch.uint8)
    for i, name in enumerate(own):
        if (folder / name).is_file():
            digests[i] = torch.frombuffer(bytearray(_digest(folder / name)), dtype=torch.uint8)
    found = {
        name: bytes(digest.tolist()).hex()
        for process, part in enumerate(all_gather(digests))
        for name, digest in zip(names[process::count], part, strict=False)
    }
    return {name: found[name] if any(bytes.fromhex(found[name])) else "" for name in names}


def spread_like(value: Tensor, like: Any) -> Tensor:
    """Return a whole tensor, sharded as another is; to be called in every process."""
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.digest()


def _checkpointing() -> Any:
    """Import what takes seconds, and most runs do not need."""
    dcp = import_module("torch.distributed.checkpoint")
    if not hasattr(dcp, "HuggingFaceStorageWriter"):
        raise ImportError(
            "checkpoints of sharded weights need torch.distributed.checkpoint's "
            f"HuggingFaceStorageWriter, which torch {torch.__version__} lacks: install a newer one"
        )
    return dcp
