"""What works on the items of an audit: the sampler, the attack, and the panel that looks on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...attacks import Attack, AttackBatch, Ended, Evaluation, Iterate, Threat, build_rule
from ...executors import Item, Result
from ...features import quantize
from ...formats import Noise, save_noise
from ...objectives import ImageClassifier
from ...report import save_picture
from ...runs import choose_device
from ...setup import Model, load_model
from .config import AuditConfig
from .panel import Panel, from_bits, to_bits

PICTURES, NOISES = "pictures", "noises"


def attack_of(config: AuditConfig, targeted: bool) -> Attack:
    """Return the attack that the settings describe."""
    threat = Threat(config.norm, config.radius, config.shell)
    return Attack(
        threat=threat,
        rule=build_rule(config.step_rule, threat, config.max_steps, config.step_size),
        loss=config.loss,
        targeted=targeted,
        max_steps=config.max_steps,
        num_restarts=config.num_restarts,
        stop_at_success=config.stop_at_success,
        picture_limit=config.picture_limit,
    )


@dataclass
class _Taken:
    """An item that is being worked on."""

    item: Item
    start: Tensor | None = None
    seconds: float = 0.0


class AuditWorker:
    """Works on several items at once, each at its own update.

    Args:
        config: settings.
        model: draws the pictures.
        panel: looks at them.
        targeted: whether items have a target.
    """

    def __init__(self, config: AuditConfig, model: Model, panel: Panel, targeted: bool) -> None:
        self.config, self.model, self.panel = config, model, panel
        # One sample that is not finite must not end the others: the batch looks at each.
        model.sampler.check_finite = False
        self._batch = AttackBatch(attack_of(config, targeted))
        self._folder = Path(config.output_dir)
        self._prompts: list[str] = []
        self._cond: dict[str, Any] = {}
        self.calls_of_one = 0
        """Network calls and products of one sampling run with its gradient."""

    @property
    def capacity(self) -> int:
        """How many items it works on at most."""
        return self.config.batch_size

    def advance(self, items: Sequence[Item]) -> list[Result]:
        """Take new items, and make one update of all: one sampling run and one gradient.

        Args:
            items: new ones, as `audit_items` makes them.

        Returns:
            The results of those that ended. Their pictures are written.
        """
        for item in items:
            self._take(item)
        taken: list[_Taken] = self._batch.items
        started = time.perf_counter()
        ended = self._batch.advance(self._look)
        seconds = (time.perf_counter() - started) / max(len(taken), 1)
        for one in taken:
            one.seconds += seconds
        return [self._result(one) for one in ended]

    def _take(self, item: Item) -> None:
        classifier = self.panel.classifier
        noise = self.model.noise(1, torch.Generator().manual_seed(item["seed"]))[0]
        target = None if item["target"] is None else classifier.index(item["target"])
        label = classifier.index(item["label"])
        self._batch.add(_Taken(item), noise, label, target, seed=item["seed"])

    def _look(self, points: Tensor, taken: Sequence[_Taken]) -> Evaluation:
        """Draw the pictures of noises, as files will hold them, and ask the classifier."""
        model, config = self.model, self.config
        prompts = [one.item["prompt"] for one in taken]
        if prompts != self._prompts:
            self._prompts, self._cond = prompts, model.encode(prompts, config.negative_prompt)
        generators = None
        if model.sampler.plan.num_draws:
            generators = [_generator(one.item["seed"], model.device) for one in taken]
        if not self.calls_of_one:
            cost = model.sampler.cost(points, **self._cond)
            self.calls_of_one = cost.forward_calls + cost.recomputed_calls + cost.products
        latents = model.sampler(points, generator=generators, **self._cond)
        images = quantize(model.decode(latents))
        for one, image in zip(taken, images.detach(), strict=True):
            one.start = image.clone() if one.start is None else one.start
        distance = None
        if config.picture_limit is not None:
            starts = torch.stack([one.start for one in taken if one.start is not None])
            distance = self.panel.distance(config.picture_distance)(images, starts)
        return Evaluation(self.panel.classifier(images), to_bits(images), distance)

    def _result(self, ended: Ended) -> Result:
        taken: _Taken = ended.item
        item = taken.item
        start, last, best = (
            self._reading(item, which, iterate, ended)
            for which, iterate in (
                ("start", ended.start),
                ("last", ended.last),
                ("best", ended.best),
            )
        )
        result = {
            **item,
            "status": ended.status,
            "evaluations": ended.evaluations,
            "zero_gradients": ended.zero_gradients,
            "network_calls": ended.evaluations * self.calls_of_one,
            "seconds": taken.seconds,
            "start": start,
            "last": last,
            "best": best,
            "noise": None,
        }
        if ended.status == "fooled":
            result["noise"] = self._save_noise(item, ended.best)
        return result

    def _reading(self, item: Item, which: str, iterate: Iterate, ended: Ended) -> dict[str, Any]:
        """Write a picture, and return what is said of what was written."""
        if iterate.evaluation == 0:
            which = "start"
        elif iterate.evaluation == ended.best.evaluation:
            which = "best"
        name = f"{PICTURES}/{item['id']}-{which}.png"
        save_picture(self._folder / name, from_bits(iterate.picture))
        moved = iterate.point - ended.start.point
        return {
            "picture": name,
            "evaluation": iterate.evaluation,
            **self.panel.read(iterate.picture, item["label"]),
            "linf": float(moved.abs().max()),
            "l2": float(moved.norm()),
            "within": iterate.inside,
            **self.panel.compare(iterate.picture, ended.start.picture),
        }

    def _save_noise(self, item: Item, iterate: Iterate) -> str:
        config, name = self.config, f"{NOISES}/{item['id']}.safetensors"
        noise = Noise(
            iterate.point[None].cpu(),
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            prompt=item["prompt"],
            negative_prompt=config.negative_prompt,
            seed=item["seed"],
            provenance=self.model.provenance,
        )
        save_noise(self._folder / name, noise)
        return name


def build_worker(
    settings: dict[str, Any], targeted: bool, classifier: ImageClassifier | None = None
) -> AuditWorker:
    """Return a worker from settings as JSON holds them, in a process of its own.

    Args:
        settings: those of `AuditConfig`, by name.
        targeted: whether items have a target.
        classifier: what is audited, in place of the one that they name.
    """
    config = AuditConfig(**settings)
    device = choose_device(config.device)
    panel = Panel.load(config, device, classifier)
    return AuditWorker(config, load_model(config, device), panel, targeted)


def settings_of(config: AuditConfig) -> dict[str, Any]:
    """Return settings as `build_worker` takes them, as JSON holds them."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(config).items()
    }


def _generator(seed: int, device: torch.device) -> torch.Generator:
    """Return what an item's noises on the way are drawn from, in every update the same."""
    return torch.Generator(device).manual_seed(seed + 2**32)
