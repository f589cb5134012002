"""An ONNX graph as a differentiable module: the operators that exported UNets consist of.

Classifiers are made modules by onnx2torch (`adjointdpm.targets`), which knows no `Split` of opset
18 and so none of these UNets.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Attributes = dict[str, Any]


def _average_pool(a: Attributes, x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, a["kernel_shape"], a["strides"])


def _clip(
    a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    return x.clamp(low, high)


def _conv(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    top, left, bottom, right = a["pads"]
    if (top, left) != (bottom, right):
        raise NotImplementedError("a convolution with more padding on one side")
    return functional.conv2d(x, weight, bias, a["strides"], (top, left), a["dilations"], a["group"])


def _gemm(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    assert (a["alpha"], a["beta"], a["transA"]) == (1, 1, 0)
    return functional.linear(x, weight if a["transB"] else weight.T, bias)


def _instance_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return functional.instance_norm(x, weight=scale, bias=bias, eps=a["epsilon"])


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    kept = shape.tolist()
    if not a.get("allowzero"):
        kept = [x.shape[i] if size == 0 else size for i, size in enumerate(kept)]
    return x.reshape(kept)


def _resize(a: Attributes, x: Tensor, roi: Any, scales: Tensor | None, sizes: Any = None) -> Tensor:
    if a["mode"] != b"nearest":
        raise NotImplementedError("only enlarging by the nearest pixel")
    target = sizes[2:].tolist() if scales is None else None
    factors = None if scales is None else scales[2:].tolist()
    return functional.interpolate(x, target, factors, mode="nearest")


def _shape(a: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[a.get("start", 0) : a.get("end")])


def _split(a: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    if sizes is None:
        return x.chunk(a["num_outputs"], a["axis"])
    return x.split(sizes.tolist(), a["axis"])


def _unsqueeze(a: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    for axis in sorted(axes.tolist()):
        x = x.unsqueeze(axis)
    return x


OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": lambda a, x, y: x + y,
    "AveragePool": _average_pool,
    "Clip": _clip,
    "Concat": lambda a, *x: torch.cat(x, a["axis"]),
    "Conv": _conv,
    "Cos": lambda a, x: x.cos(),
    "Div": lambda a, x, y: x / y,
    "Einsum": lambda a, *x: torch.einsum(a["equation"].decode(), *x),
    "Gemm": _gemm,
    "InstanceNormalization": _instance_norm,
    "Log": lambda a, x: x.log(),
    "Mul": lambda a, x, y: x * y,
    "Pow": lambda a, x, y: x**y,
    "Reciprocal": lambda a, x: x.reciprocal(),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Sigmoid": lambda a, x: x.sigmoid(),
    "Sin": lambda a, x: x.sin(),
    "Softmax": lambda a, x: x.softmax(a["axis"]),
    "Split": _split,
    "Sqrt": lambda a, x: x.sqrt(),
    "Squeeze": lambda a, x, axes=None: x.squeeze() if axes is None else x.squeeze(axes.tolist()),
    "Sub": lambda a, x, y: x - y,
    "Unsqueeze": _unsqueeze,
}


class OnnxModule(nn.Module):
    """The graph of an ONNX file, node by node, with its constants as buffers.

    Args:
        path: the file.

    Raises:
        NotImplementedError: it has an operator that is not here.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        import onnx
        from onnx import helper, numpy_helper

        graph = onnx.load(str(path)).graph
        unknown = {node.op_type for node in graph.node} - OPERATORS.keys()
        if unknown:
            raise NotImplementedError(f"operators {', '.join(sorted(unknown))}")
        self._inputs = [each.name for each in graph.input]
        self._output = graph.output[0].name
        self._buffer_names: dict[str, str] = {}
        for i, constant in enumerate(graph.initializer):
            self._buffer_names[constant.name] = f"constant_{i}"
            value = torch.from_numpy(numpy_helper.to_array(constant).copy())
            self.register_buffer(f"constant_{i}", value)
        self._nodes = [
            (
                OPERATORS[node.op_type],
                {each.name: helper.get_attribute_value(each) for each in node.attribute},
                list(node.input),
                list(node.output),
            )
            for node in graph.node
        ]
        last = {name: i for i, (_, _, inputs, _) in enumerate(self._nodes) for name in inputs}
        self._last_uses: dict[int, list[str]] = {}
        for name, i in last.items():
            self._last_uses.setdefault(i, []).append(name)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the first output of the graph."""
        values: dict[str, Any] = dict(zip(self._inputs, inputs, strict=True))
        values |= {name: self.get_buffer(own) for name, own in self._buffer_names.items()}
        values[""] = None  # an input that is left out
        for i, (operator, attributes, names, results) in enumerate(self._nodes):
            found = operator(attributes, *(values[name] for name in names))
            for name, value in zip(results, found if len(results) > 1 else [found], strict=True):
                values[name] = value
            for name in self._last_uses.get(i, ()):
                if name and name not in self._buffer_names:
                    del values[name]
        return values[self._output]
