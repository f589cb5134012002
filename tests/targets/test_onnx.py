"""An ONNX file becomes a module that says what the file says, and has a gradient."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adjointdpm.features import Preprocessing
from adjointdpm.targets import load_target

LABELS = ["a", "b", "c", "d"]


def write_onnx(path: Path, batch: str | int, *, inputs: int = 1) -> Path:
    """Write a small convolutional classifier, built from operators and not by an exporter."""
    from onnx import TensorProto, helper, numpy_helper, save

    random = np.random.default_rng(0)

    def constant(name: str, *shape: int, shift: float = 0.0) -> Any:
        values = 0.3 * random.standard_normal(shape) + shift
        return numpy_helper.from_array(values.astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "d"], ["y"], transB=1),
    ]
    weights = [
        constant("w", 5, 3, 3, 3),
        *(constant(name, 5) for name in ("b", "scale", "shift", "mean")),
        constant("var", 5, shift=2.0),
        constant("v", 4, 5),
        constant("d", 4),
    ]
    value = helper.make_tensor_value_info
    given = [value("x", TensorProto.FLOAT, [batch, 3, 8, 8])]
    given += [value(f"more{i}", TensorProto.FLOAT, [1]) for i in range(1, inputs)]
    made = [value("y", TensorProto.FLOAT, [batch, 4])]
    graph = helper.make_graph(nodes, "classifier", given, made, weights)
    opset = [helper.make_opsetid("", 17)]
    save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def load(file: Path) -> Any:
    preprocessing = Preprocessing((8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    return load_target(file, labels=LABELS, preprocessing=preprocessing)


@pytest.fixture(autouse=True)
def _packages() -> None:
    for name in ("onnx", "onnx2torch"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("batch", ["n", 1])
def test_it_says_what_the_file_says(tmp_path, batch) -> None:
    from onnx.reference import ReferenceEvaluator

    file = write_onnx(tmp_path / "net.onnx", batch)
    target = load(file)
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    evaluator = ReferenceEvaluator(str(file))
    expected = np.concatenate(
        [evaluator.run(None, {"x": x[None].numpy()})[0] for x in images * 2 - 1]
    )
    torch.testing.assert_close(target(images), torch.from_numpy(expected), atol=1e-5, rtol=1e-5)


def test_its_gradient(tmp_path) -> None:
    target = load(write_onnx(tmp_path / "net.onnx", "n")).double()
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(target, images, fast_mode=True)
    assert not any(p.requires_grad for p in target.parameters())


def test_files_that_are_no_classifier(tmp_path) -> None:
    with pytest.raises(ValueError, match="2 inputs and 1 outputs"):
        load(write_onnx(tmp_path / "two.onnx", "n", inputs=2))
    with pytest.raises(ValueError, match=r"\(4, 3, 8, 8\)"):
        load(write_onnx(tmp_path / "four.onnx", 4))
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.onnx")


def test_a_module_that_says_something_else_is_refused(tmp_path, monkeypatch) -> None:
    from adjointdpm.targets import onnx

    file = write_onnx(tmp_path / "net.onnx", "n")
    convert = onnx._converter()

    def another(graph: Any) -> Any:
        module = convert(graph)
        with torch.no_grad():
            next(p for p in module.parameters() if p.ndim == 2).mul_(1.01)
        return module

    monkeypatch.setattr(onnx, "_converter", lambda: another)
    with pytest.raises(ValueError, match="not what the file says"):
        load(file)


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_no_stand_in_is_left(tmp_path) -> None:
    load(write_onnx(tmp_path / "net.onnx", "n"))
    assert "torchvision" not in sys.modules
