"""The picture of the start page: a run forward, its gradient backward, and what follows from it.

    python benchmarks/overview.py        # the embedded model, about a minute on one core
    python benchmarks/overview.py --toy  # two updates of three steps, seconds

The upper row is what the model takes its latent for along a sampling run, the middle row the
vector-Jacobian products of the same network calls in the backward pass, the lower row the picture
after some updates of the noise, with the probability of the goal. Writes overview.png and the
numbers, overview.json, into the output directory.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from stamp import stamp
from torch import Tensor

import adjointdpm as adp
from adjointdpm.variables import project_to_typical

PROMPT, GOAL, SEED = "apple, style flat", "green apple", 3
CLEAN = {"xticks": [], "yticks": []}


class Products(adp.Observer):
    """Keeps the products of the last sweep."""

    def __init__(self) -> None:
        self.by_call: dict[int, Tensor] = {}

    def on_product(self, k: int, product: Tensor) -> None:
        self.by_call[k] = product[0].norm(dim=0)


def show(axes: Axes, picture: Tensor, title: str, **style: Any) -> None:
    axes.imshow(picture.detach().numpy(), **style)
    axes.set_title(title, fontsize=22)
    axes.set(**CLEAN)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path("docs"))
    parser.add_argument("--toy", action="store_true")
    args = parser.parse_args(arguments)
    steps, shown = (3, [0, 1, 2]) if args.toy else (25, [0, 2, 5, 10, 20])
    calls = [0, 1, 2] if args.toy else [0, 6, 12, 18, 24]

    default = adp.load_default()
    products = Products()
    sampler, decode = adp.from_pipeline(default.pipeline, steps, 2.0)
    sampler.observer = products
    words = adp.encode_prompt(default.pipeline, PROMPT, guidance=True)
    goal = adp.objectives.ClassifierLogProbability(default.classifier, GOAL)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        guesses = sampler.trajectory(noise, **words).pred_original_sample
        forward = [decode(guesses[k])[0].permute(1, 2, 0) for k in calls]

    noise.requires_grad_()
    optimizer = torch.optim.Adam([noise], lr=0.05)
    after: dict[int, tuple[Tensor, float]] = {}
    for update in range(shown[-1] + 1):
        images = decode(sampler(noise, **words))
        score = goal(images).mean()
        after[update] = images[0].permute(1, 2, 0), float(score.detach().exp())
        optimizer.zero_grad()
        (-score).backward()
        if update == 0:
            backward = [products.by_call[k] for k in calls]
        optimizer.step()
        with torch.no_grad():
            noise.copy_(project_to_typical(noise))

    figure, rows = plt.subplots(3, len(calls), figsize=(13, 9.6), dpi=80)
    for k, axes, picture, product in zip(calls, rows.T, forward, backward, strict=True):
        show(axes[0], picture, f"call {k + 1}")
        show(axes[1], product / product.max(), f"call {k + 1}", cmap="magma")
    for update, axes in zip(shown, rows[2], strict=True):
        picture, probability = after[update]
        show(axes, picture, f"after {update}: {probability:.0%}")
    names = ("sampling →", "← gradient", "updates →")
    for name, axes in zip(names, rows[:, 0], strict=True):
        axes.set_ylabel(name, fontsize=24)
    figure.tight_layout()
    (args.output_dir / "benchmarks").mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output_dir / "overview.png")
    settings = {"prompt": PROMPT, "goal": GOAL, "seed": SEED, "num_inference_steps": steps}
    written = {
        "settings": settings,
        **stamp(),
        "rows": [{"updates": update, "probability": after[update][1]} for update in shown],
    }
    (args.output_dir / "benchmarks" / "overview.json").write_text(
        json.dumps(written, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
