"""How near a sampler comes to a picture from the noise that an inversion finds.

    python -m benchmarks.inversion

Pictures are drawn by the embedded model, rounded to 8 bits, and inverted as any picture would be.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from stamp import stamp

import adjointdpm as adp
from adjointdpm.gradients import GradientMethod
from adjointdpm.storage import write_text

STEPS, PICTURES = 10, 4
WAYS: dict[str, tuple[float, int, GradientMethod | None]] = {
    "DDIM, one guess a step": (1.0, 2, None),
    "DDIM, fixed points": (1.0, 50, None),
    "DDIM with guidance 2, one guess a step": (2.0, 2, None),
    "DDIM with guidance 2, fixed points": (2.0, 50, None),
    "Reversible, McCallum and Foster": (1.0, 10, adp.Reversible()),
    "Reversible, BDIA": (1.0, 10, adp.Reversible("bdia")),
    "Reversible, BELM": (1.0, 10, adp.Reversible("belm")),
}
"""Guidance, most iterations, and gradient method. The second iteration is at the first guess."""


def measure(
    default: Any, guidance: float, iterations: int, method: GradientMethod | None
) -> dict[str, Any]:
    pipe, words = default.pipeline, default.concepts
    ddim = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    sampler, decode = adp.from_pipeline(pipe, STEPS, guidance, scheduler=ddim, gradient=method)
    named = [concept for concept in words.concepts if not concept.wordless]
    prompts = [
        words.prompt(named[i * len(named) // PICTURES].name, words.styles[i % len(words.styles)])
        for i in range(PICTURES)
    ]
    cond = adp.encode_prompt(pipe, prompts, guidance=guidance > 1)
    noise = torch.randn(PICTURES, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pictures = decode(sampler(noise, **cond)).mul(255).round().div(255)
    started = time.process_time()
    found = adp.invert_images(pipe, sampler, decode, pictures, max_iterations=iterations, **cond)
    return {
        "latent_error": float(found.inversion.error.mean()),
        "largest_latent_error": float(found.inversion.error.max()),
        "pixel_error": float(found.pixel_error.mean()),
        "autoencoder_error": float(found.autoencoder_error.mean()),
        "noise_std": float(found.noise.flatten(1).std(1).mean()),
        "network_calls": found.inversion.num_calls,
        "cpu_seconds": time.process_time() - started,
    }


def main() -> None:
    """Measure, and write JSON as it goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks/inversion.json"))
    output = parser.parse_args().output
    default, rows = adp.load_default(), {}
    for name, way in WAYS.items():
        rows[name] = measure(default, *way)
        print(name, rows[name], flush=True)
        content = {
            "steps": STEPS,
            "pictures": PICTURES,
            **stamp(),
            "rows": rows,
        }
        write_text(output, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
