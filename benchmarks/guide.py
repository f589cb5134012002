"""Ways to lead a sample to a goal, at equal network calls: what each reaches, and at what price.

The embedded model is asked for "thing", which is any of twelve concepts that it has no word for,
and each picture is to become a certain one of them. Compared are the noise optimised through the
whole sampler (DOODL's way), guidance at each step by an estimate of one call (DPS, FreeDoM) or of
four (SAG), and the best of many samples. A call that makes a graph counts twice, for its product.

    python benchmarks/guide.py --output docs/benchmarks/guide.json

What is there is not measured again, so that it can be stopped and go on.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import adjointdpm as adp
from adjointdpm.assets import load_feature_network
from adjointdpm.evaluation import read_pictures, set_distance, success_rate
from adjointdpm.features import FeatureNetwork
from adjointdpm.objectives import ClassifierMargin, RandomViews
from adjointdpm.runs import OptimizeConfig, optimize
from adjointdpm.setup import one_step_sampler
from adjointdpm.variables import project_to_typical

STEPS, GUIDANCE_SCALE, MARGIN = 10, 2.0, 5.0
SEED = 20_000


@dataclass
class Calls:
    """Network calls of a block: forward, and products with the Jacobian of one."""

    forward: int = 0
    products: int = 0

    @property
    def total(self) -> int:
        return self.forward + self.products


@contextmanager
def counted(unet: torch.nn.Module) -> Iterator[Calls]:
    """Count calls; one with a graph counts for a product too, also where it is not taken."""
    calls = Calls()

    def count(*_: Any) -> None:
        calls.forward += 1
        calls.products += torch.is_grad_enabled()

    handle = unet.register_forward_hook(count)
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

    def optimised_noise(self, budget: int) -> Tensor:
        """The whole sampler differentiated for each update."""
        noise = project_to_typical(self.noise).requires_grad_()
        cond = self.conditioning(len(noise))

        def loss(generator: torch.Generator) -> Tensor:
            return self.loss(self.sampler(noise, **cond)).mean()

        def project() -> None:
            noise.copy_(project_to_typical(noise))

        updates = max(1, (budget - STEPS) // (3 * STEPS))
        config = OptimizeConfig(
            learning_rate=0.1, lr_scheduler="cosine", max_train_steps=updates, progress_bar=False
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


def methods(budget: int) -> dict[str, Callable[[Task], Tensor]]:
    """The ways by name."""
    found: dict[str, Callable[[Task], Tensor]] = {
        "plain": Task.plain,
        "best of n": lambda task: task.best_of(budget),
        "noise": lambda task: task.optimised_noise(budget),
    }
    for strength in (0.25, 0.5, 1.0):
        found[f"one-step, strength {strength}"] = lambda task, s=strength: task.guided(budget, 1, s)
        found[f"4 inner steps, strength {strength}"] = lambda task, s=strength: task.guided(
            budget, 4, s
        )
    return found


def measure(task: Task, way: Callable[[Task], Tensor]) -> tuple[dict[str, Any], Tensor]:
    """Return what a way reached, and its pictures."""
    start = time.process_time()
    with counted(task.default.pipeline.unet) as calls:
        latents = way(task)
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


def main() -> None:
    """Measure, and write JSON as it goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks/guide.json"))
    parser.add_argument("--budget", type=int, default=300)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--targets", type=int, default=12)
    parser.add_argument("--only", nargs="*", help="names of ways")
    args = parser.parse_args()
    default = adp.load_default()
    network = load_feature_network("judge", ["model.convnextv2.encoder.stages.2"])
    rows = json.loads(args.output.read_text())["rows"] if args.output.is_file() else {}
    style = default.concepts.styles[0]
    targets = [concept.label for concept in default.concepts.wordless][: args.targets]
    reference = draws(default, style, args.pictures * len(targets))
    for name, way in methods(args.budget).items():
        if name in rows or (args.only and name not in args.only):
            continue
        found, pictures = [], []
        for i, target in enumerate(targets):
            task = Task(default, target, style, args.pictures, SEED + i)
            result, images = measure(task, way)
            found.append({"target": target, **result})
            pictures.append(images)
        rows[name] = summary(found, torch.cat(pictures), reference, network)
        print(name, {k: v for k, v in rows[name].items() if k != "targets"}, flush=True)
        write(args, rows)


@torch.no_grad()
def draws(default: Any, style: str, count: int) -> Tensor:
    """Return other pictures of the prompt."""
    parts = [
        Task(default, default.judge.labels[0], style, 8, SEED + 100 + i) for i in range(count // 8)
    ]
    return torch.cat([task.decode(task.plain()) for task in parts])


def summary(
    found: list[dict[str, Any]], images: Tensor, reference: Tensor, network: FeatureNetwork
) -> dict[str, Any]:
    """Return the means over targets, and the distance of all pictures to those of the prompt."""
    recognised = success_rate(yes for row in found for yes in row["recognised"])
    metrics = [value for row in found for value in row["metric"]]
    distance = set_distance(images, reference, network)
    return {
        "recognised": recognised.successes,
        "of": recognised.trials,
        "interval": [recognised.low, recognised.high],
        "metric": sum(metrics) / len(metrics),
        "kid": distance.kid,
        "kid_std": distance.kid_std,
        "fid": distance.fid,
        "feature_network": distance.feature_network,
        "calls": sum(sum(row["calls"].values()) for row in found) / len(found),
        "cpu_seconds": sum(row["cpu_seconds"] for row in found),
        "targets": found,
    }


def write(args: argparse.Namespace, rows: dict[str, Any]) -> None:
    content = {
        "budget": args.budget,
        "steps": STEPS,
        "guidance_scale": GUIDANCE_SCALE,
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "rows": rows,
    }
    args.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
