"""Inception-v3 as FID knows it, from weights that the user has.

The network of the first FID (``inception-2015-12-05``), as pytorch-fid, torch-fidelity and
clean-fid have it. It differs from torchvision's: average pools leave the padding out, and the last
block has a maximum pool in place of an average. Names of weights are theirs.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..storage import read_tensors
from .network import FeatureNetwork

Resizing = Literal["clean", "legacy_pytorch", "legacy_tensorflow"]
"""How pictures come to 299 x 299, by clean-fid's names (arXiv 2104.11222); numbers depend on it."""
SIDE = 299


class Convolution(NamedTuple):
    """A convolution of a block.

    Args:
        channels: that it gives.
        kernel: its size, (height, width).
        after: the convolution whose output it takes; "" for the block's input, ``pool`` for that
            pooled.
        stride: 2 for those that halve the picture, without padding.
    """

    channels: int
    kernel: tuple[int, int]
    after: str = ""
    stride: int = 1


Convolutions = dict[str, Convolution]


def _block_a(pooled: int) -> Convolutions:
    return {
        "branch1x1": Convolution(64, (1, 1)),
        "branch5x5_1": Convolution(48, (1, 1)),
        "branch5x5_2": Convolution(64, (5, 5), "branch5x5_1"),
        "branch3x3dbl_1": Convolution(64, (1, 1)),
        "branch3x3dbl_2": Convolution(96, (3, 3), "branch3x3dbl_1"),
        "branch3x3dbl_3": Convolution(96, (3, 3), "branch3x3dbl_2"),
        "branch_pool": Convolution(pooled, (1, 1), "pool"),
    }


BLOCK_B: Convolutions = {
    "branch3x3": Convolution(384, (3, 3), stride=2),
    "branch3x3dbl_1": Convolution(64, (1, 1)),
    "branch3x3dbl_2": Convolution(96, (3, 3), "branch3x3dbl_1"),
    "branch3x3dbl_3": Convolution(96, (3, 3), "branch3x3dbl_2", stride=2),
}


def _block_c(width: int) -> Convolutions:
    return {
        "branch1x1": Convolution(192, (1, 1)),
        "branch7x7_1": Convolution(width, (1, 1)),
        "branch7x7_2": Convolution(width, (1, 7), "branch7x7_1"),
        "branch7x7_3": Convolution(192, (7, 1), "branch7x7_2"),
        "branch7x7dbl_1": Convolution(width, (1, 1)),
        "branch7x7dbl_2": Convolution(width, (7, 1), "branch7x7dbl_1"),
        "branch7x7dbl_3": Convolution(width, (1, 7), "branch7x7dbl_2"),
        "branch7x7dbl_4": Convolution(width, (7, 1), "branch7x7dbl_3"),
        "branch7x7dbl_5": Convolution(192, (1, 7), "branch7x7dbl_4"),
        "branch_pool": Convolution(192, (1, 1), "pool"),
    }


BLOCK_D: Convolutions = {
    "branch3x3_1": Convolution(192, (1, 1)),
    "branch3x3_2": Convolution(320, (3, 3), "branch3x3_1", stride=2),
    "branch7x7x3_1": Convolution(192, (1, 1)),
    "branch7x7x3_2": Convolution(192, (1, 7), "branch7x7x3_1"),
    "branch7x7x3_3": Convolution(192, (7, 1), "branch7x7x3_2"),
    "branch7x7x3_4": Convolution(192, (3, 3), "branch7x7x3_3", stride=2),
}
BLOCK_E: Convolutions = {
    "branch1x1": Convolution(320, (1, 1)),
    "branch3x3_1": Convolution(384, (1, 1)),
    "branch3x3_2a": Convolution(384, (1, 3), "branch3x3_1"),
    "branch3x3_2b": Convolution(384, (3, 1), "branch3x3_1"),
    "branch3x3dbl_1": Convolution(448, (1, 1)),
    "branch3x3dbl_2": Convolution(384, (3, 3), "branch3x3dbl_1"),
    "branch3x3dbl_3a": Convolution(384, (1, 3), "branch3x3dbl_2"),
    "branch3x3dbl_3b": Convolution(384, (3, 1), "branch3x3dbl_2"),
    "branch_pool": Convolution(192, (1, 1), "pool"),
}
# Without the padding, which TensorFlow's average does not count.
AVERAGE = partial(nn.AvgPool2d, 3, stride=1, padding=1, count_include_pad=False)
MAXIMUM = partial(nn.MaxPool2d, 3, stride=1, padding=1)
HALVING = partial(nn.MaxPool2d, 3, stride=2)


class ConvolutionUnit(nn.Module):
    """Convolution, normalisation and ReLU."""

    def __init__(
        self,
        incoming: int,
        channels: int,
        kernel: tuple[int, int],
        stride: int = 1,
        pad: bool = True,
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if pad and stride == 1 else 0
        self.conv = nn.Conv2d(incoming, channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for (batch, channels, height, width)."""
        return functional.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """A block: convolutions in several branches, whose ends are joined.

    Args:
        incoming: channels of the input.
        convolutions: by name, each after the one that it takes its input from.
        pool: the pool of the last branch.
    """

    def __init__(self, incoming: int, convolutions: Convolutions, pool: nn.Module) -> None:
        super().__init__()
        channels = {"": incoming, "pool": incoming}
        for name, each in convolutions.items():
            unit = ConvolutionUnit(channels[each.after], each.channels, each.kernel, each.stride)
            self.add_module(name, unit)
            channels[name] = each.channels
        self.pool = pool
        self._after = {name: each.after for name, each in convolutions.items()}

    def forward(self, x: Tensor) -> Tensor:
        """Return the joined ends of the branches."""
        outputs = {"": x, "pool": self.pool(x)}
        for name, after in self._after.items():
            outputs[name] = self.get_submodule(name)(outputs[after])
        ends = [name for name in self._after if name not in self._after.values()]
        if "pool" not in self._after.values():
            ends.append("pool")
        return torch.cat([outputs[name] for name in ends], 1)


def inception_v3() -> nn.Sequential:
    """Return Inception-v3 up to its last block, untrained (arXiv 1512.00567).

    It takes (batch, 3, height, width) in [-1, 1]; at 299 x 299 the layer ``Mixed_7c`` gives
    (batch, 2048, 8, 8), whose means over positions are the features of FID.
    """
    return nn.Sequential(
        OrderedDict(
            Conv2d_1a_3x3=ConvolutionUnit(3, 32, (3, 3), stride=2),
            Conv2d_2a_3x3=ConvolutionUnit(32, 32, (3, 3), pad=False),
            Conv2d_2b_3x3=ConvolutionUnit(32, 64, (3, 3)),
            MaxPool_1=HALVING(),
            Conv2d_3b_1x1=ConvolutionUnit(64, 80, (1, 1)),
            Conv2d_4a_3x3=ConvolutionUnit(80, 192, (3, 3), pad=False),
            MaxPool_2=HALVING(),
            Mixed_5b=Mixed(192, _block_a(32), AVERAGE()),
            Mixed_5c=Mixed(256, _block_a(64), AVERAGE()),
            Mixed_5d=Mixed(288, _block_a(64), AVERAGE()),
            Mixed_6a=Mixed(288, BLOCK_B, HALVING()),
            Mixed_6b=Mixed(768, _block_c(128), AVERAGE()),
            Mixed_6c=Mixed(768, _block_c(160), AVERAGE()),
            Mixed_6d=Mixed(768, _block_c(160), AVERAGE()),
            Mixed_6e=Mixed(768, _block_c(192), AVERAGE()),
            Mixed_7a=Mixed(768, BLOCK_D, HALVING()),
            Mixed_7b=Mixed(1280, BLOCK_E, AVERAGE()),
            Mixed_7c=Mixed(2048, BLOCK_E, MAXIMUM()),
        )
    )


def inception_v3_of_fid(weights: str | Path, resizing: Resizing = "clean") -> FeatureNetwork:
    """Return the feature network of FID and KID, frozen.

    Args:
        weights: a safetensors file of ``pt_inception-2015-12-05``, the state dict of pytorch-fid
            and torch-fidelity; ``benchmarks/convert.py`` writes one from theirs.
        resizing: ``clean`` as clean-fid, ``legacy_pytorch`` as pytorch-fid, ``legacy_tensorflow``
            as the first FID and torch-fidelity.

    Raises:
        ValueError: the file is not one of such weights, or the resizing is not known.
    """
    if resizing not in get_args(Resizing):
        raise ValueError(f"resizing must be one of {', '.join(get_args(Resizing))}")
    model = inception_v3()
    tensors, _ = read_tensors(Path(weights))
    state = {name: value for name, value in tensors.items() if not name.startswith("fc.")}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{weights} does not hold the weights of Inception-v3 that FID is measured with "
            f"(pt_inception-2015-12-05): {' '.join(str(error).split())[:300]}"
        ) from None
    return FeatureNetwork(
        model.requires_grad_(False), ["Mixed_7c"], partial(to_inception, resizing=resizing),
        f"Inception-v3 (2015-12-05, {resizing})",
    )  # fmt: skip


def to_inception(images: Tensor, resizing: Resizing = "clean") -> Tensor:
    """Return pictures as Inception-v3 sees them.

    Args:
        images: (batch, 3, height, width) in [0, 1].
        resizing: see `inception_v3_of_fid`.

    Returns:
        (batch, 3, 299, 299) in [-1, 1].
    """
    if resizing == "legacy_pytorch":
        resized = functional.interpolate(images, (SIDE, SIDE), mode="bilinear")
        return 2 * resized - 1
    if resizing == "legacy_tensorflow":
        resized = 255 * _corner_bilinear(_corner_bilinear(images, 2), 3)
    elif images.shape[2:] == (SIDE, SIDE):
        resized = 255 * images
    else:
        resized = functional.interpolate(
            255 * images, (SIDE, SIDE), mode="bicubic", antialias=True
        ).clamp(0, 255)
    return (resized - 128) / 128


def _corner_bilinear(images: Tensor, dim: int) -> Tensor:
    """Resize one dimension as TensorFlow 1 did, with pixels at their corners and not centres."""
    length = images.shape[dim]
    at = torch.arange(SIDE, device=images.device, dtype=images.dtype) * (length / SIDE)
    low = at.long()
    high = (low + 1).clamp_max(length - 1)
    share = (at - low).reshape(-1, *[1] * (3 - dim))
    return images.index_select(dim, low).lerp(images.index_select(dim, high), share)
