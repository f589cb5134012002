"""Write the Inception-v3 weights of FID into a safetensors file.

    python benchmarks/convert_inception.py pt_inception-2015-12-05-6726825d.pth fid.safetensors

The file is that of github.com/mseitzer/pytorch-fid/releases (or torch-fidelity's, which is the
same). The package `adjointdpm` reads no pickles; this script reads one, with ``weights_only``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from adjointdpm.features import inception_v3_of_fid


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args(arguments)
    weights = torch.load(options.weights, map_location="cpu", weights_only=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, options.output)
    inception_v3_of_fid(options.output)  # raises where they are other weights
    print(f"{options.output}: {len(weights)} tensors")


if __name__ == "__main__":
    main()
