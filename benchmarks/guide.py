"""Ways to lead a sample to a goal, at equal network calls: what each reaches, and at what price.

The embedded model is asked for "thing", which is any of twelve concepts that it has no word for,
and each picture is to become a certain one of them. Compared are the noise optimised through the
whole sampler (DOODL's way), guidance at each step by an estimate of one call (DPS, FreeDoM) or of
four (SAG), and the best of many samples. What is counted is what the network does: its forward
calls, also those that are run again, and the products with its Jacobian that are really taken.

How far a way goes is a setting of it (a strength, a learning rate). It is chosen for each half of
the targets on the other half, where the judge was surest of the target.

    python benchmarks/guide.py

What is there is not measured again, so that it can be stopped and go on. Pictures stay in a folder
under build, a strip for each way and target, and become guide.png: a row for each way, a target
every few columns.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image
from stamp import stamp
from torch import Tensor

import adjointdpm as adp
from adjointdpm.assets import load_feature_network
from adjointdpm.evaluation import read_pictures, set_distance, success_rate
from adjointdpm.objectives import ClassifierMargin, RandomViews
from adjointdpm.report import contact_sheet, save_picture
from adjointdpm.runs import OptimizeConfig, optimize
from adjointdpm.setup import one_step_sampler
from adjointdpm.storage import write_text
from adjointdpm.variables import project_to_typical

STEPS, GUIDANCE_SCALE, MARGIN = 10, 2.0, 5.0
SEED = 20_000
LEARNING_RATES = (0.1, 0.3)
STRENGTHS = {1: (0.25, 0.5), 4: (0.5, 1.0)}
"""By inner steps: with one, each step is repeated more often, and each repeat moves as far."""
REFERENCE = 96
"""Other pictures of the prompt, for KID."""


@dataclass
class Calls:
    """What a network did in a block: forward calls, and products with its Jacobian."""

    forward: int = 0
    products: int = 0


@contextmanager
def counted(network: torch.nn.Module) -> Iterator[Calls]:
    """Count the calls of a network, and the gradients that arrive at what it answered."""
    calls = Calls()

    def product(_: Tensor) -> None:
        calls.products += 1

    def forward(_: Any, __: Any, answer: Any) -> None:
        calls.forward += 1
        if answer[0].requires_grad:
            answer[0].register_hook(product)

    handle = network.register_forward_hook(forward)
    try:
        yield calls
    finally:
        handle.remove()


class Task:
    """Pictures of a prompt, each from its noise, that are to become a target."""

    def __init__(self, default: Any, target: str, style: str, pictures: int, seed: int) -> None:
        self.default, self.target = default, target
        self.sampler, self.decode = adp.from_pipeline(default.pipeline, STEPS, GUIDANCE_SCALE)
        prompt = default.concepts.prompt(default.concepts.generic_noun, style)
        self.cond = adp.encode_prompt(default.pipeline, [prompt])
        self.generator = torch.Generator().manual_seed(seed)
        self.noise = self.fresh(pictures)
        self.metric = ClassifierMargin(default.classifier, target, cap=MARGIN)
        self.objective = RandomViews(self.metric, 2)

    def fresh(self, count: int) -> Tensor:
        return torch.randn(count, 4, 16, 16, generator=self.generator)

    def conditioning(self, count: int) -> dict[str, Tensor]:
        return {name: tensor.expand(count, -1, -1) for name, tensor in self.cond.items()}

    def loss(self, latents: Tensor) -> Tensor:
        return self.objective.loss(self.decode(latents), self.generator)

    @torch.no_grad()
    def plain(self) -> Tensor:
        return self.sampler(self.noise, **self.conditioning(len(self.noise)))

    @torch.no_grad()
    def best_of(self, budget: int) -> Tensor:
        """The sample that the metric likes best, of as many as the budget allows."""
        best, values = self.plain(), None
        for _ in range(budget // STEPS - 1):
            values = self.metric.loss(self.decode(best)) if values is None else values
            other = self.sampler(self.fresh(len(best)), **self.conditioning(len(best)))
            found = self.metric.loss(self.decode(other))
            better = found < values
            best = torch.where(better[:, None, None, None], other, best)
            values = torch.where(better, found, values)
        return best

    def optimised_noise(self, updates: int, learning_rate: float) -> Tensor:
        """The whole sampler differentiated for each update."""
        noise = project_to_typical(self.noise).requires_grad_()
        cond = self.conditioning(len(noise))

        def loss(generator: torch.Generator) -> Tensor:
            return self.loss(self.sampler(noise, **cond)).mean()

        def project() -> None:
            noise.copy_(project_to_typical(noise))

        config = OptimizeConfig(
            learning_rate=learning_rate,
            lr_scheduler="cosine",
            max_train_steps=updates,
            progress_bar=False,
        )
        optimize({"noise": noise}, loss, config, project=project)
        with torch.no_grad():
            return self.sampler(noise, **cond)

    def guided(self, budget: int, inner_steps: int, strength: float) -> Tensor:
        """Each step guided, and repeated as often as the budget allows."""
        sampler = one_step_sampler(self.sampler)
        calls = sum(min(inner_steps, STEPS - k) for k in range(STEPS))
        repeats = max(1, round(budget / (3 * calls)))
        guidance = adp.StepGuidance(strength, inner_steps, repeats)
        cond = self.conditioning(len(self.noise))
        return adp.guided_sample(
            sampler, self.noise, self.loss, guidance, generator=self.generator, **cond
        )


@dataclass(frozen=True)
class Way:
    """One way to lead a sample, with a setting that says how far."""

    name: str
    setting: str | None
    run: Callable[[Task], Tensor]

    @property
    def key(self) -> str:
        """Its name in the file of results."""
        return self.name if self.setting is None else f"{self.name}, {self.setting}"


def ways(budget: int) -> list[Way]:
    """Return the ways, each at all its settings."""
    found = [
        Way("plain", None, Task.plain),
        Way("best of n", None, partial(Task.best_of, budget=budget)),
    ]
    updates = max(1, (budget - STEPS) // (3 * STEPS))
    for rate in LEARNING_RATES:
        setting = f"learning rate {rate}"
        run = partial(Task.optimised_noise, updates=updates, learning_rate=rate)
        found.append(Way("noise", setting, run))
    for inner, strengths in STRENGTHS.items():
        name = f"{inner} inner step{'s' if inner > 1 else ''}"
        for strength in strengths:
            run = partial(Task.guided, budget=budget, inner_steps=inner, strength=strength)
            found.append(Way(name, f"strength {strength}", run))
    return found


def measure(task: Task, way: Way) -> tuple[dict[str, Any], Tensor]:
    """Return what a way reached, and its pictures."""
    start = time.process_time()
    with counted(task.default.pipeline.unet) as calls:
        latents = way.run(task)
    seconds = time.process_time() - start
    with torch.no_grad():
        images = task.decode(latents).mul(255).round().div(255)
        metric = task.metric(images).tolist()
    readings = read_pictures(images, task.target, task.default.classifier, task.default.judge)
    return {
        "calls": asdict(calls),
        "cpu_seconds": seconds,
        "metric": metric,
        "recognised": [reading.recognised for reading in readings],
        "judge": [reading.judge for reading in readings],
    }, images


class Bench:
    """All measurements: numbers in a file, pictures in a folder.

    Args:
        args: of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.default = args, adp.load_default()
        self.style = self.default.concepts.styles[0]
        concepts = self.default.concepts.wordless[: args.targets]
        self.targets = [concept.label for concept in concepts]
        content = json.loads(args.output.read_text()) if args.output.is_file() else {}
        self.rows: dict[str, dict[str, Any]] = content.get("rows", {})
        self.ways = ways(args.budget)

    def strip(self, way: Way, target: str) -> Path:
        """Return the file with the pictures of a way."""
        return self.args.pictures_dir / f"{way.key}, {target}.png".replace(" ", "-")

    def measure_all(self) -> None:
        """Measure what is not there, target by target."""
        for i, target in enumerate(self.targets):
            for way in self.ways:
                if target in self.rows.setdefault(way.key, {}):
                    continue
                task = Task(self.default, target, self.style, self.args.pictures, SEED + i)
                row, images = measure(task, way)
                save_picture(self.strip(way, target), contact_sheet([images], gap=0))
                self.rows[way.key][target] = row
                print(way.key, target, json.dumps(row), flush=True)
                self.write()

    def chosen(self, name: str, target: str) -> Way:
        """Return a way at the setting that made the judge surest in the other half of targets."""
        half = self.targets.index(target) % 2
        others = [other for i, other in enumerate(self.targets) if i % 2 != half]
        found = [way for way in self.ways if way.name == name]
        if len(found) == 1:
            return found[0]
        return max(
            found,
            key=lambda way: fmean(
                p for other in others for p in self.rows[way.key][other]["judge"]
            ),
        )

    def summaries(self) -> dict[str, Any]:
        """Return what each way reached: at each setting, and at those that were chosen."""
        network = load_feature_network("judge", ["model.convnextv2.encoder.stages.2"])
        reference = self.draws()
        found, shown = {}, []
        every = {way.key: dict.fromkeys(self.targets, way) for way in self.ways}
        names = dict.fromkeys(way.name for way in self.ways)
        every |= {name: {t: self.chosen(name, t) for t in self.targets} for name in names}
        for name, by_target in every.items():
            rows = [self.rows[way.key][target] for target, way in by_target.items()]
            strips = [read(self.strip(way, t), self.args.pictures) for t, way in by_target.items()]
            images = torch.cat(strips)
            settings = dict.fromkeys(way.setting for way in by_target.values())
            found[name] = {
                "settings": [setting for setting in settings if setting is not None],
                **summary(rows),
                **asdict(set_distance(images, reference, network, subset_size=len(images))),
            }
            shown += [images] if name in names else []
        save_picture(self.args.output.with_suffix(".png"), contact_sheet(shown))
        return found

    @torch.no_grad()
    def draws(self) -> Tensor:
        """Return other pictures of the prompt."""
        label, size = self.default.judge.labels[0], 8
        tasks = [
            Task(self.default, label, self.style, size, SEED + 100 + i)
            for i in range(REFERENCE // size)
        ]
        return torch.cat([task.decode(task.plain()) for task in tasks])

    def write(self, summaries: dict[str, Any] | None = None) -> None:
        """Write what is known."""
        content = {
            "budget": self.args.budget,
            "steps": STEPS,
            "guidance_scale": GUIDANCE_SCALE,
            **stamp(),
            "summaries": summaries or {},
            "rows": self.rows,
        }
        write_text(self.args.output, json.dumps(content, indent=1) + "\n")


def read(strip: Path, count: int) -> Tensor:
    """Return the pictures of a strip, (count, 3, height, width) in [0, 1]."""
    pixels = torch.from_numpy(np.asarray(Image.open(strip).convert("RGB")).copy())
    return torch.stack(pixels.permute(2, 0, 1).div(255).chunk(count, dim=2))


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over targets."""
    recognised = success_rate(yes for row in rows for yes in row["recognised"])
    return {
        "recognised": recognised.successes,
        "of": recognised.trials,
        "interval": [recognised.low, recognised.high],
        "judge": fmean(value for row in rows for value in row["judge"]),
        "metric": fmean(value for row in rows for value in row["metric"]),
        "calls": fmean(row["calls"]["forward"] for row in rows),
        "products": fmean(row["calls"]["products"] for row in rows),
        "cpu_seconds": sum(row["cpu_seconds"] for row in rows),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write JSON as it goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks/guide.json"))
    parser.add_argument("--pictures_dir", type=Path, default=Path("build/guide"))
    parser.add_argument("--budget", type=int, default=200, help="calls and products a picture")
    parser.add_argument("--pictures", type=int, default=2, help="of each target")
    parser.add_argument("--targets", type=int, default=12)
    bench = Bench(parser.parse_args(arguments))
    bench.measure_all()
    bench.write(bench.summaries())


if __name__ == "__main__":
    main()
