"""What a head on CLIP embeddings says of a picture, such as how well people would like it."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..formats import refuse_pickle
from .clip import ImageTextModel
from .objective import Objective


class AestheticScore(Objective):
    """What a head on the embeddings of a CLIP model says of a picture: larger is better.

    Args:
        model: embeds the pictures.
        head: from embeddings of length one, (batch, dim), to (batch, 1) scores.
    """

    larger_is_better = True

    def __init__(self, model: ImageTextModel, head: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the scores, (batch,), of pictures (batch, 3, height, width) in [0, 1]."""
        return self.head(self.model(images)).reshape(len(images))


def load_aesthetic_head(path: str | Path, activation: type[nn.Module] | None = None) -> nn.Module:
    """Return the linear layers in a file, one after the other, frozen.

    That is the layout of LAION's aesthetic predictors: one linear layer, or five without anything
    between them (their dropout does nothing in evaluation).

    Args:
        path: a safetensors file with a ``weight`` (out, in) and a ``bias`` for each layer, whose
            numbers or names give their order: ``layers.0.weight``, ``layers.2.weight``, ...
        activation: what stands between the layers, such as ``nn.ReLU``; None for nothing.

    Raises:
        ValueError: the file is pickled, or its layers do not fit each other.
    """
    refuse_pickle(path)
    tensors = load_file(path)
    names = sorted((n for n in tensors if n.endswith("weight")), key=_by_number)
    if not names:
        raise ValueError(f"{path} holds no weight of a linear layer, only {', '.join(tensors)}")
    layers: list[nn.Module] = []
    incoming = tensors[names[0]].shape[-1]
    for name in names:
        weight, bias = tensors[name], tensors.get(name.removesuffix("weight") + "bias")
        if weight.ndim != 2 or weight.shape[1] != incoming:
            raise ValueError(
                f"{path}: {name} has the shape {tuple(weight.shape)}, but a linear layer of "
                f"{incoming} inputs is due"
            )
        incoming = weight.shape[0]
        layer = nn.Linear(weight.shape[1], incoming, bias=bias is not None)
        layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        layers += [layer] if activation is None or not layers else [activation(), layer]
    if incoming != 1:
        raise ValueError(f"{path}: the last layer has {incoming} outputs; a score is one")
    return nn.Sequential(*layers).eval().requires_grad_(False)


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
