"""What a call of the embedded model's network keeps for its graph, by switches of diffusers.

    python benchmarks/low_memory.py --output_dir docs/benchmarks

Bytes that autograd saves in one guided call for one picture. With weights that stay where they are
these are activations; sequential offloading fetches each layer's weights for the call, and the
graph keeps those as well.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from accelerate import cpu_offload
from stamp import stamp

import adjointdpm as adp
from adjointdpm.memory import SavedBytes
from adjointdpm.storage import write_text


def kept(checkpointing: bool, offload: bool) -> int:
    """Return the bytes that one guided call keeps until its gradient is taken."""
    pipe = adp.load_default().pipeline
    words = adp.encode_prompt(pipe, ["apple, style noto"], guidance=False)
    hidden = words["encoder_hidden_states"].repeat(2, 1, 1)
    if checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    if offload:
        cpu_offload(pipe.unet, torch.device("cpu"))
    saved = SavedBytes(pipe.unet.parameters())
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with saved.counting():
        answer = pipe.unet(x, torch.tensor([500, 500]), hidden).sample
    assert answer.requires_grad
    return saved.total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, required=True)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = [
        {"checkpointing": checkpointing, "offload": offload, "bytes": kept(checkpointing, offload)}
        for offload in (False, True)
        for checkpointing in (False, True)
    ]
    content = {**stamp(), "rows": rows}
    write_text(options.output_dir / "low_memory.json", json.dumps(content, indent=1) + "\n")
    for row in rows:
        print(row, f"{row['bytes'] / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
