"""A classifier by its name or its file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..assets import assets_folder
from ..features import Preprocessing
from ..objectives import ImageClassifier, load_by_name
from .efficientnet import efficientnet_lite0
from .imagenet import imagenet_labels
from .onnx import onnx_classifier
from .timm import timm_classifier
from .torchvision import torchvision_classifier

TARGETS = (
    "classifier",
    "judge",
    "efficientnet-lite0",
    "timm:NAME",
    "torchvision:NAME",
    "FOLDER",
    "FILE.onnx",
    "module:name",
)
"""The forms of name that `load_target` knows."""

Labels = Sequence[str] | str | Path
Preprocess = Callable[[Tensor], Tensor] | str | Path


def load_target(
    name_or_path: str | Path,
    *,
    weights: str | Path | None = None,
    labels: Labels | None = None,
    preprocessing: Preprocess | None = None,
    assets: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> ImageClassifier:
    """Return a classifier of pictures in [0, 1], in evaluation mode.

    Args:
        name_or_path: ``classifier`` or ``judge`` of the embedded model; a folder that transformers'
            ``AutoModelForImageClassification`` loads; ``timm:NAME`` or ``torchvision:NAME``;
            ``efficientnet-lite0``; an ``.onnx`` file; or ``module:name`` of your own: an
            `ImageClassifier`, a module, or a function without arguments that returns one.
        weights: a safetensors file, for ``timm:``, ``torchvision:`` and ``efficientnet-lite0``.
        labels: the names of the classes by index, a text file with one on each line, or
            ``imagenet``; for ``timm:``, ``torchvision:``, ONNX files and modules of your own.
        preprocessing: how pictures become the input, or a folder with a
            ``preprocessor_config.json``; for ONNX files, modules of your own and
            ``efficientnet-lite0``.
        assets: folder of the embedded model, as `load_default` takes it.
        device: where to put it.

    Raises:
        ValueError: there is no such target, or it is told what it does not take or lacks what it
            needs.
        FileNotFoundError: there is no such file.
        ImportError: a package that the target needs is not installed.

    >>> len(load_target("judge").labels)
    131
    """
    name = str(name_or_path)
    kind = _kind(name)
    given = {"weights": weights, "labels": labels, "preprocessing": preprocessing}
    for argument, value in given.items():
        if value is not None and argument not in TAKES[kind]:
            raise ValueError(f"the target {name} brings its own {argument}: leave them out")
    names = _read_labels(labels)
    if isinstance(preprocessing, str | Path):
        preprocessing = Preprocessing.from_pretrained(preprocessing)
    match kind:
        case "embedded":
            target = ImageClassifier.from_pretrained(assets_folder(assets) / name)
        case "efficientnet-lite0":
            if weights is None:
                raise ValueError(
                    "efficientnet-lite0 needs weights: the safetensors file that "
                    "benchmarks/convert.py writes"
                )
            target = efficientnet_lite0(weights, preprocessing)
        case "timm":
            target = timm_classifier(name.partition(":")[2], weights, names)
        case "torchvision":
            target = torchvision_classifier(name.partition(":")[2], weights, names)
        case "onnx":
            if names is None or preprocessing is None:
                raise ValueError(
                    f"{name} says neither what its classes are called nor what it takes: pass "
                    "labels and preprocessing (Preprocessing() for pictures as they are)"
                )
            target = onnx_classifier(name, names, preprocessing)
        case "folder":
            target = ImageClassifier.from_pretrained(name)
        case _:
            target = _own(name, preprocessing, names)
    return target.eval().to(device)


TAKES = {
    "embedded": (),
    "efficientnet-lite0": ("weights", "preprocessing"),
    "timm": ("weights", "labels"),
    "torchvision": ("weights", "labels"),
    "onnx": ("labels", "preprocessing"),
    "folder": (),
    "own": ("labels", "preprocessing"),
}
"""What a kind of target may be told."""


def _kind(name: str) -> str:
    if name in ("classifier", "judge"):
        return "embedded"
    if name == "efficientnet-lite0":
        return name
    if Path(name).suffix == ".onnx":
        return "onnx"
    if Path(name).is_dir():
        return "folder"
    prefix, colon, _ = name.partition(":")
    if colon:
        return prefix if prefix in ("timm", "torchvision") else "own"
    raise ValueError(
        f"there is no target {name!r}: it is no folder, and none of {', '.join(TARGETS)}"
    )


def _read_labels(labels: Labels | None) -> Sequence[str] | None:
    if labels == "imagenet":
        return imagenet_labels()
    if isinstance(labels, str | Path):
        lines = Path(labels).read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line.strip()]
    return labels


def _own(
    name: str, preprocessing: Callable[[Tensor], Tensor] | None, labels: Sequence[str] | None
) -> ImageClassifier:
    found = load_by_name(name)
    if not isinstance(found, nn.Module) and callable(found):
        found = found()
    if isinstance(found, ImageClassifier):
        if labels is not None or preprocessing is not None:
            raise ValueError(f"{name} is an ImageClassifier, with labels and preprocessing")
        return found
    if not isinstance(found, nn.Module):
        raise TypeError(f"{name} gave {type(found).__name__}; it must give a torch.nn.Module")
    return ImageClassifier(found, preprocessing, labels)
