"""Style against content: LoRA adapters through the whole sampler at several content weights.

On the embedded model, with prompts and noises that no update has seen. Beside the adapters stand a
neural-style optimisation of each picture (Gatys et al., 2016) with the same goal, an adapter
fine-tuned on the style picture with the objective of diffusers' training scripts, and adapters by
other gradients through the sampler, in the same CPU time. What is there already is not computed
again, so that a run that was stopped goes on.

    python benchmarks/stylize.py --style_images brick.png coffee.png --output_dir build/stylize

The first picture is the one that the curve is of.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from equal_time import cpu_seconds
from PIL import Image
from stamp import stamp
from torch import Tensor
from torch.nn import functional

from adjointdpm import (
    CoarseAdjoint,
    ContinuousAdjoint,
    GradientMethod,
    Truncated,
    encode_image,
    encode_prompt,
)
from adjointdpm.assets import load_feature_network
from adjointdpm.evaluation import success_rate
from adjointdpm.jobs.stylize import StylizeConfig
from adjointdpm.jobs.stylize.goal import Stylization, build_goal, read_style, style_layers
from adjointdpm.jobs.stylize.model import StylizedModel
from adjointdpm.jobs.stylize.prompts import choose_prompts
from adjointdpm.jobs.stylize.run import examples, restyle
from adjointdpm.objectives import GramStyle
from adjointdpm.report import contact_sheet, save_picture
from adjointdpm.setup import load_model
from adjointdpm.storage import write_text

WEIGHTS = (0.1, 0.3, 0.6, 0.8, 1.0, 2.0)
COUNT = 24
"""Pictures that each adapter is judged on."""
NEURAL_UPDATES = 30
TIMED = 3
"""Updates of each gradient method that are timed, to make as many as take the same time."""
CONTESTANTS = ("sampler", "neural", "finetuned", "gradients")
GRADIENTS: dict[str, GradientMethod] = {
    "CoarseAdjoint(2)": CoarseAdjoint(2),
    "Truncated(1)": Truncated(1),
    "ContinuousAdjoint()": ContinuousAdjoint(),
}
"""Beside the job's own, by which the runs of ``sampler`` are: `Exact` with a memory budget."""
PER_ROW = 12
"""Pictures in a row of a contact sheet; it divides twice their number."""
SHEET, ENLARGED, GAP = "before-after.png", 2, 2
STEPS, GUIDANCE = 15, 2.0
"""How people draw with the embedded model: neither is what the adapters are trained with."""


class Bench:
    """One model, its prompts, and what is measured on them.

    Args:
        config: settings of the job.
        count: pictures that are judged.
    """

    def __init__(self, config: StylizeConfig, count: int) -> None:
        loaded = load_model(config, torch.device("cpu"))
        self.default = loaded.default
        self.prompts, labels = choose_prompts(config, self.default.concepts)
        self.unseen, self.labels = list(labels)[:count], list(labels.values())[:count]
        self.model = StylizedModel(config, loaded)
        generator = torch.Generator().manual_seed(1_000_000)
        self.noise = self.model.model.noise(len(self.unseen), generator)

    def draw(self) -> Tensor:
        """Return the pictures of unseen prompts as the updates draw theirs."""
        return self.model.draw_many(self.noise, self.unseen)

    @torch.no_grad()
    def draw_usually(self) -> Tensor:
        """Return them by the stock pipeline, with more steps and guidance."""
        pipe, parts = self.default.pipeline, []
        for i in range(0, len(self.unseen), 8):
            options = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
            drawn = pipe(
                self.unseen[i : i + 8],
                latents=self.noise[i : i + 8],
                output_type="pt",
                **options,
            )
            parts.append(drawn.images)
        return torch.cat(parts)

    @torch.no_grad()
    def recognised(self, images: Tensor) -> list[bool]:
        """Return for each picture whether the judge calls it what it was asked for."""
        judge = self.default.judge
        seen = judge(images.mul(255).round().div(255)).argmax(1).tolist()
        return [judge.labels[i] == label for i, label in zip(seen, self.labels, strict=True)]

    def compare(self, before: Tensor, after: Tensor, picture: Tensor) -> dict[str, Any]:
        """Return what became of pictures: Gram distances, and what the judge makes of them."""
        known, kept = self.recognised(before), self.recognised(after)
        trials = [yes for yes, was in zip(kept, known, strict=True) if was]
        rate = success_rate(trials) if trials else None
        numbers: dict[str, Any] = {
            "recognised_before": sum(known),
            "still_recognised": sum(trials),
            "still_recognised_low": rate and rate.low,
            "still_recognised_high": rate and rate.high,
        }
        for name in ("vgg16-hed", "classifier"):
            try:
                network = load_feature_network(name)
            except ImportError:
                continue
            style = GramStyle(network.at(style_layers(network)), picture)
            with torch.no_grad():
                first, last = (style(images).mean().item() for images in (before, after))
            numbers[name] = {"before": first, "after": last, "reduction": 1 - last / first}
        return numbers


def through_the_sampler(
    config: StylizeConfig,
    *,
    out: Path,
    count: int,
    usually: bool = False,
    gradient: GradientMethod | None = None,
) -> dict[str, Any]:
    """Train an adapter by the job's own loop, and judge it.

    Args:
        config: settings.
        out: folder of the adapter.
        count: pictures that are judged.
        usually: whether it is judged as people draw with it too.
        gradient: another method than the job's, for as many updates as take the same time.
    """
    bench = Bench(config, count)
    before = bench.draw()
    goal, picture = build_goal(config, None, examples(bench.model, bench.prompts))
    assert picture is not None
    if gradient is not None:
        take_as_long(bench, goal, gradient)
    started = time.process_time()
    history = restyle(bench.model, goal, bench.prompts)
    seconds = time.process_time() - started
    after = bench.draw()
    bench.model.save(out, {})
    show(out, before, after)
    numbers = bench.compare(before, after, picture)
    if usually:
        with bench.model.weights.at_start():
            before = bench.draw_usually()
        numbers["usual"] = bench.compare(before, bench.draw_usually(), picture)
    return {
        **numbers,
        "losses": history.losses,
        "cpu_seconds": seconds,
        "wall_seconds": sum(history.seconds),
    }


def take_as_long(bench: Bench, goal: Stylization, gradient: GradientMethod) -> None:
    """Let a model be trained by a gradient method, in the time that the job's own takes.

    Both are timed on a few updates, which are undone.
    """
    model, config = bench.model, bench.model.config
    sampler, weights = model.model.sampler, model.weights.tensors
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    model.config = replace(config, max_train_steps=1)

    def update(by: GradientMethod) -> None:
        sampler.gradient = by
        restyle(model, goal, bench.prompts)

    ways = {"own": partial(update, sampler.gradient), "other": partial(update, gradient)}
    prices = cpu_seconds(ways, TIMED)
    updates = max(1, round(config.max_train_steps * prices["own"] / prices["other"]))
    model.config, sampler.gradient = replace(config, max_train_steps=updates), gradient
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(start[name])


def neural_style(config: StylizeConfig, *, out: Path, count: int) -> dict[str, Any]:
    """Optimise each picture by itself, pixel by pixel, to the same goal."""
    bench = Bench(config, count)
    before = bench.draw()
    goal, picture = build_goal(config, None, examples(bench.model, bench.prompts))
    assert picture is not None
    images = before.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=0.03)
    started = time.process_time()
    for _ in range(NEURAL_UPDATES):
        optimizer.zero_grad()
        goal(images, before).mean().backward()
        optimizer.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    seconds = time.process_time() - started
    show(out, before, images.detach())
    numbers = bench.compare(before, images.detach(), picture)
    return {**numbers, "cpu_seconds": seconds}


def fine_tuned(config: StylizeConfig, *, out: Path, count: int, budget: float) -> dict[str, Any]:
    """Train an adapter of the same size on the style picture by itself, as diffusers does.

    Its captions are the training prompts, since every prompt is to come out in the style.

    Args:
        config: settings.
        out: folder of the adapter.
        count: pictures that are judged.
        budget: CPU seconds of training: those of the adapter through the sampler.
    """
    bench = Bench(config, count)
    before = bench.draw()
    picture = read_style(config.style_image, before.shape[2])
    pipe, schedule = bench.default.pipeline, bench.model.model.sampler.denoiser.schedule
    weights = list(bench.model.weights.tensors.values())
    optimizer = torch.optim.AdamW(weights, lr=1e-3)
    generator = torch.Generator().manual_seed(config.seed)
    started, updates = time.process_time(), 0
    with torch.no_grad():
        latents = encode_image(pipe, picture[None, :, : before.shape[2], : before.shape[3]])
    while time.process_time() - started < budget:
        chosen = torch.randint(len(bench.prompts), (4,), generator=generator).tolist()
        with torch.no_grad():
            cond = encode_prompt(pipe, [bench.prompts[i] for i in chosen], guidance=False)
        noise = bench.model.model.noise(4, generator)
        t = torch.randint(1000, (4,), generator=generator)
        scales = schedule.alpha(t.double()), schedule.sigma(t.double())
        alpha, sigma = (scale.float()[:, None, None, None] for scale in scales)
        velocity = alpha * noise - sigma * latents
        answer = pipe.unet(alpha * latents + sigma * noise, t, **cond).sample
        loss = functional.mse_loss(answer, velocity)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        updates += 1
    after = bench.draw()
    show(out, before, after)
    numbers = bench.compare(before, after, picture)
    return {**numbers, "updates": updates, "cpu_seconds": time.process_time() - started}


def show(out: Path, before: Tensor, after: Tensor) -> None:
    """Write a contact sheet of the pictures before and after, side by side."""
    pairs = torch.stack([before, after], 1).flatten(0, 1)
    sheet = contact_sheet(list(pairs.split(PER_ROW)), GAP)
    save_picture(out / SHEET, sheet, ENLARGED)


def show_curve(folder: Path, names: list[str], count: int = 12) -> None:
    """Write a sheet of the same pictures: as they were, and then a row a name."""
    rows = []
    for name in names:
        pixels = np.asarray(Image.open(folder / name.replace("/", "-") / SHEET).convert("RGB"))
        side = (pixels.shape[1] // ENLARGED + GAP) // PER_ROW
        small = torch.from_numpy(pixels[::ENLARGED, ::ENLARGED].copy()).permute(2, 0, 1) / 255
        cells = small.unfold(1, side - GAP, side).unfold(2, side - GAP, side)
        pictures = cells.permute(1, 2, 0, 3, 4).flatten(0, 1)
        rows += [pictures[::2][:count]] if not rows else []
        rows.append(pictures[1::2][:count])
    save_picture(folder / "curve.png", contact_sheet(rows, GAP))


def main(arguments: list[str] | None = None) -> None:
    """Compute what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--style_images", type=Path, nargs="+", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS)
    parser.add_argument("--content_weight", type=float, default=StylizeConfig().content_weight)
    parser.add_argument("--max_train_steps", type=int, default=StylizeConfig().max_train_steps)
    parser.add_argument("--feature_network", default="classifier")
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    options = parser.parse_args(arguments)
    file = options.output_dir / "results.json"
    results: dict[str, Any] = json.loads(file.read_text())["rows"] if file.is_file() else {}

    def once(name: str, compute: Callable[..., dict[str, Any]]) -> None:
        if name in results:
            return
        results[name] = compute(out=options.output_dir / name.replace("/", "-"))
        write_text(file, json.dumps({**stamp(), "rows": results}, indent=1) + "\n")
        shown = {k: v for k, v in results[name].items() if k != "losses"}
        print(name, json.dumps(shown), flush=True)

    first = StylizeConfig(
        output_dir=options.output_dir / "stopped",  # where Ctrl-C leaves a checkpoint
        max_train_steps=options.max_train_steps,
        feature_network=options.feature_network,
        progress_bar=False,
    )
    chosen, images = options.content_weight, options.style_images
    usual = options.max_train_steps == StylizeConfig().max_train_steps
    updates = "" if usual else f"/{options.max_train_steps}"
    weights = sorted({chosen, *options.weights})
    runs = [(images[0], weight) for weight in weights]
    runs += [(image, chosen) for image in images[1:]]
    runs.sort(key=lambda run: run[1] != chosen)  # what the other contestants are measured by
    for image, weight in runs if "sampler" in options.only else ():
        config = replace(first, style_image=image, content_weight=weight)
        usually = (image, weight) == (images[0], chosen)
        once(
            f"{image.stem}/sampler/{weight:g}{updates}",
            partial(through_the_sampler, config, count=options.count, usually=usually),
        )
    curve = [f"{images[0].stem}/sampler/{weight:g}{updates}" for weight in weights]
    if set(curve) <= set(results):
        show_curve(options.output_dir, curve)
    for image in images:
        config = replace(first, style_image=image, content_weight=chosen)
        for name, gradient in GRADIENTS.items() if "gradients" in options.only else ():
            once(
                f"{image.stem}/{name}/{chosen:g}{updates}",
                partial(through_the_sampler, config, count=options.count, gradient=gradient),
            )
        if "neural" in options.only:
            count = options.count // 2
            once(f"{image.stem}/neural/{chosen:g}", partial(neural_style, config, count=count))
        if "finetuned" in options.only:
            budget = results[f"{image.stem}/sampler/{chosen:g}{updates}"]["cpu_seconds"]
            once(
                f"{image.stem}/finetuned",
                partial(fine_tuned, config, count=options.count, budget=budget),
            )


if __name__ == "__main__":
    main()
