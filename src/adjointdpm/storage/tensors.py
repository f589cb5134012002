"""Tensors and plain data in one safetensors file, with a checksum of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from .replacing import write_bytes

METADATA_KEY = "adjointdpm"
"""The entry of a file's metadata that holds, as JSON, all that is not a tensor."""
CHECKSUM_KEY = "adjointdpm_sha256"


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
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    for name, tensor in copies.items():
        _check_finite(name, tensor, "it is not worth saving")
    text = json.dumps({"kind": kind, **fields})
    checksum = _checksum(text, copies)
    write_bytes(path, save(copies, {"format": "pt", METADATA_KEY: text, CHECKSUM_KEY: checksum}))


def read_tensors(
    path: Path, kind: str | None = None, device: str | torch.device = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a safetensors file into memory of its own: what becomes of the file does not matter.

    Args:
        path: the file.
        kind: what it must hold; None for any file, of whatever origin.
        device: where to put the tensors.

    Returns:
        The tensors, and the fields that `write_tensors` wrote with them, if it did.

    Raises:
        ValueError: it is no safetensors file, one of another kind, has values that are not finite,
            or is not as it was written.
    """
    content = path.read_bytes()
    try:
        tensors = load(content)
        metadata = _metadata(content)
    except Exception as error:  # whatever a reader trips over in a damaged file
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None
    text, checksum = metadata.get(METADATA_KEY), metadata.get(CHECKSUM_KEY)
    ours = text is not None or checksum is not None
    if kind is not None and not ours:
        raise ValueError(f"{path} holds tensors that were not saved by adjointdpm, not {kind}")
    if ours and checksum is None:
        raise ValueError(
            f"{path} has no checksum: a version of adjointdpm before the first release wrote it. "
            "Save what it was made from again"
        )
    if ours and _checksum(str(text), tensors) != checksum:
        raise ValueError(
            f"{path} is damaged: its content does not match its checksum. Copy or make it again"
        )
    fields = _fields(path, text) if text is not None else {}
    found = fields.pop("kind", None)
    if kind is not None and found != kind:
        raise ValueError(f"{path} holds {found}, not {kind}")
    for name, tensor in tensors.items():
        _check_finite(f"{name} in {path}", tensor, "whatever loads it would be spoilt")
    return {name: tensor.to(device) for name, tensor in tensors.items()}, fields


def _metadata(content: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file, whose header is JSON after its length."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]).get("__metadata__") or {}


def _fields(path: Path, text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise ValueError(f"the metadata of {path} are not a JSON object")
    return fields


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the metadata and of each tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_finite(name: str, tensor: Tensor, why: str) -> None:
    if tensor.is_floating_point() and tensor.itemsize == 1:
        tensor = tensor.float()  # torch cannot ask this of 8 bits
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise ValueError(f"{name} has values that are not finite; {why}")
