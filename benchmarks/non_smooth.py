"""Metrics with steps in them: what comes of plain gradients, straight-through and smoothed ones.

    python benchmarks/non_smooth.py          # the embedded model, some minutes on one idle core
    python benchmarks/non_smooth.py --toy    # one update of pictures without a model, seconds

The noise of the embedded model is optimised under four metrics that are constant between steps.
Each is followed by its own derivative, by the derivative of the metric without the step, straight
through, and in its smooth form. What is reported is the metric itself, step and all, before and
after. Results go to non_smooth_SEED.json in the output directory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from stamp import stamp
from torch import Tensor
from torch.nn import functional

import adjointdpm as adp
from adjointdpm.features import RoundingGradient, exceeds, jpeg, quantize
from adjointdpm.objectives import (
    ClassifierLogProbability,
    ClassifierMargin,
    Objective,
    Thresholded,
    Transformed,
    as_objective,
)
from adjointdpm.variables import project_to_typical

GRADIENTS: tuple[RoundingGradient, ...] = ("exact", "straight_through", "smooth")
LEVELS, QUALITY, MARGIN_WIDTH, DARKNESS_WIDTH = 4, 5, 4.0, 0.1


@dataclass(frozen=True)
class Metric:
    """A metric with a step, by the gradient that it is to have, and the metric without the step."""

    name: str
    stepped: Callable[[RoundingGradient], Objective]
    without: Objective


def metrics(classifier: Any, target: str) -> list[Metric]:
    log_probability = ClassifierLogProbability(classifier, target)
    margin = ClassifierMargin(classifier, target)

    def darkness(images: Tensor) -> Tensor:
        return 1 - images.mean(1)

    def dark_pixels(gradient: RoundingGradient, images: Tensor) -> Tensor:
        return exceeds(darkness(images), 0.5, gradient, DARKNESS_WIDTH).mean((1, 2))

    def through(transform: Callable[..., Tensor], **options: Any) -> Callable[..., Objective]:
        return lambda gradient: Transformed(
            log_probability, partial(transform, gradient=gradient, **options)
        )

    return [
        Metric(
            f"log-probability, {LEVELS} levels a channel",
            through(quantize, levels=LEVELS),
            log_probability,
        ),
        Metric(
            f"log-probability, JPEG of quality {QUALITY}",
            through(jpeg, quality=QUALITY),
            log_probability,
        ),
        Metric(
            "share of dark pixels",
            lambda gradient: as_objective(partial(dark_pixels, gradient), larger_is_better=True),
            as_objective(lambda images: darkness(images).mean((1, 2)), larger_is_better=True),
        ),
        Metric(
            "share of pictures the classifier recognises",
            lambda gradient: Thresholded(margin, 0.0, gradient, MARGIN_WIDTH),
            margin,
        ),
    ]


@dataclass(frozen=True)
class Model:
    """What draws."""

    draw: Callable[[Tensor], Tensor]
    noise: Tensor
    classifier: Any

    @classmethod
    def load(cls, name: str, num_inference_steps: int, seed: int, num_pictures: int) -> Model:
        default = adp.load_default()
        sampler, decode = adp.from_pipeline(
            default.pipeline,
            num_inference_steps,
            1.0,
            gradient=adp.Exact(memory_budget="1GiB"),
        )
        concepts = default.concepts
        prompts = [concepts.prompt(name, style) for style in concepts.styles][:num_pictures]
        cond = adp.encode_prompt(default.pipeline, prompts)
        generator = torch.Generator().manual_seed(seed)
        unet = default.pipeline.unet.config
        shape = (len(prompts), unet.in_channels, unet.sample_size, unet.sample_size)
        noise = project_to_typical(torch.randn(shape, generator=generator))
        return cls(lambda z: decode(sampler(z, **cond)), noise, default.classifier)

    @classmethod
    def toy(cls) -> Model:
        """Pictures that are their noise, blurred and squeezed into [0, 1]."""
        noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        return cls(
            lambda z: functional.interpolate(z, scale_factor=4, mode="bilinear").sigmoid(),
            noise,
            adp.load_default().classifier,
        )


def optimize(
    model: Model, objective: Objective, num_updates: int, learning_rate: float
) -> tuple[Tensor, float]:
    """Return the optimised noise, and the length of the first gradient."""
    noise = model.noise.clone().requires_grad_()
    optimizer = torch.optim.Adam([noise], lr=learning_rate)
    first = 0.0
    for update in range(num_updates):
        optimizer.zero_grad()
        objective.loss(model.draw(noise)).mean().backward()
        if update == 0:
            first = float(noise.grad.norm())
            if first == 0:  # and so are all others: the noise stays where it is
                break
        optimizer.step()
        with torch.no_grad():
            noise.copy_(project_to_typical(noise))
    return noise.detach(), first


def measure(model: Model, metric: Metric, num_updates: int, learning_rate: float) -> dict[str, Any]:
    truth = metric.stepped("exact")
    ways = {"without the step": metric.without} | {g: metric.stepped(g) for g in GRADIENTS}
    with torch.no_grad():
        row: dict[str, Any] = {
            "metric": metric.name,
            "before": float(truth(model.draw(model.noise)).mean()),
        }
    for way, objective in ways.items():
        noise, first = optimize(model, objective, num_updates, learning_rate)
        with torch.no_grad():
            after = float(truth(model.draw(noise)).mean())
        row[way] = {"after": after, "first_gradient": first}
        change = f"{row['before']:8.3f} -> {after:8.3f}"
        print(f"{metric.name:45} {way:18} {change}  |g| {first:.2e}", flush=True)
    return row


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write non_smooth_SEED.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--num_inference_steps", type=int, default=6)
    parser.add_argument("--updates", type=int, default=15)
    parser.add_argument("--learning_rate", type=float, default=0.05)
    parser.add_argument("--prompt", default="apple")
    parser.add_argument("--target", default="green apple")
    parser.add_argument("--pictures", type=int, default=4, help="at most one a style")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.toy:
        options.updates, model = 1, Model.toy()
    else:
        model = Model.load(
            options.prompt, options.num_inference_steps, options.seed, options.pictures
        )
    rows = [
        measure(model, metric, options.updates, options.learning_rate)
        for metric in metrics(model.classifier, options.target)
    ]
    settings = {key: getattr(options, key) for key in vars(options) if key != "output_dir"}
    options.output_dir.mkdir(parents=True, exist_ok=True)
    content = {"settings": settings, **stamp(), "rows": rows}
    (options.output_dir / f"non_smooth_{options.seed}.json").write_text(
        json.dumps(content, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
