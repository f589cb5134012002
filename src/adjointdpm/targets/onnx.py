"""An ONNX file as a differentiable module."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..objectives import ImageClassifier
from .packages import optional

INSTALL = "--no-deps onnx2torch onnx ml_dtypes protobuf"
TOLERANCE = 1e-3
"""How far the module's logits may be from the file's, relative to the largest."""


class OnnxModule(nn.Module):
    """The module that onnx2torch makes of a file with one picture input and one output.

    Args:
        module: what onnx2torch made.
        one_by_one: whether the file takes exactly one picture at a time.
    """

    def __init__(self, module: nn.Module, one_by_one: bool) -> None:
        super().__init__()
        self.module = module
        self.one_by_one = one_by_one

    def forward(self, images: Tensor) -> Tensor:
        """Return what the file's output is for (batch, channels, height, width)."""
        if not self.one_by_one:
            return self.module(images)
        return torch.cat([self.module(image[None]) for image in images])


def onnx_classifier(
    file: str | Path,
    labels: Sequence[str],
    preprocessing: Callable[[Tensor], Tensor] | None,
) -> ImageClassifier:
    """Return the classifier of an ONNX file, frozen, made a module by onnx2torch.

    An ONNX file says neither how pictures become its input nor what its classes are called, so both
    are asked for. The module is compared with the file itself, run by onnxruntime or, where that is
    not installed, by the reference evaluator of onnx.

    Args:
        file: one input (batch, channels, height, width) of a fixed or free batch, one output
            (batch, classes) of logits.
        labels: the names of the classes, by index.
        preprocessing: how pictures in [0, 1] become the file's input; None if it takes them.

    Raises:
        ImportError: onnx2torch or onnx is not installed.
        FileNotFoundError: there is no such file.
        ValueError: the file has other inputs and outputs, an operator that the converter does not
            know, or the module gives other logits than the file.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {file}")
    onnx, convert = optional("onnx", INSTALL), _converter()
    graph = onnx.load(str(file))
    shape = _input_shape(graph, file)
    try:
        module = convert(graph)
    except NotImplementedError as error:
        raise ValueError(f"onnx2torch cannot make a module of {file}: {error}") from error
    one_by_one = shape[0] == 1
    model = OnnxModule(module.eval().requires_grad_(False), one_by_one)
    _compare(model, onnx, file, (1 if one_by_one else 2, *shape[1:]))
    return ImageClassifier(model, preprocessing, labels)


def _input_shape(graph: Any, file: str | Path) -> tuple[int, ...]:
    """Return the shape of the one input, 0 for what is free; refuse what is no classifier."""
    given = {tensor.name for tensor in graph.graph.initializer}
    inputs = [value for value in graph.graph.input if value.name not in given]
    if len(inputs) != 1 or len(graph.graph.output) != 1:
        raise ValueError(
            f"{file} has {len(inputs)} inputs and {len(graph.graph.output)} outputs; a classifier "
            "has one each"
        )
    shape = tuple(dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim)
    if len(shape) != 4 or shape[0] > 1:
        raise ValueError(
            f"the input of {file} has the shape {shape} (0 is free); it must be (batch, channels, "
            "height, width) with a batch that is free or 1"
        )
    return shape


def _compare(model: nn.Module, onnx: Any, file: str | Path, shape: tuple[int, ...]) -> None:
    """Raise where the module says something else than the file."""
    shape = tuple(
        length or default for length, default in zip(shape, (2, 3, 224, 224), strict=True)
    )
    pictures = np.random.default_rng(0).random(shape, dtype=np.float32)
    with torch.no_grad():
        found = model(torch.from_numpy(pictures)).numpy()
    expected = _run_file(onnx, file, pictures)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    if found.shape != expected.shape or not error <= TOLERANCE:
        raise ValueError(
            f"the module that onnx2torch made of {file} is not what the file says: its output is "
            f"off by {error:.1e} of the largest. Use the network that the file was made from"
        )


def _run_file(onnx: Any, file: str | Path, pictures: np.ndarray) -> np.ndarray:
    if find_spec("onnxruntime") is not None:
        runtime = optional("onnxruntime", "onnxruntime")
        session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: pictures})[0]
    evaluator = optional("onnx.reference", INSTALL).ReferenceEvaluator(str(file))
    return evaluator.run(None, {evaluator.input_names[0]: pictures})[0]


def _converter() -> Callable[[Any], nn.Module]:
    if find_spec("torchvision") is not None:
        return optional("onnx2torch", INSTALL).convert
    with _torchvision_left_out():
        return optional("onnx2torch", INSTALL).convert


@contextmanager
def _torchvision_left_out() -> Iterator[None]:
    """Let onnx2torch be imported without torchvision, which it needs for two operators.

    They find boxes (NonMaxSuppression, RoiAlign), and no classifier has them.
    """
    names = ("torchvision", "torchvision.ops")
    for name in names:
        sys.modules[name] = _Missing(name)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


class _Missing(ModuleType):
    """Stands in for a module; what is taken from it raises when it is used."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)

        def missing(*_: Any, **__: Any) -> None:
            raise ImportError(f"{self.__name__}.{attribute} needs torchvision: install it")

        return missing
