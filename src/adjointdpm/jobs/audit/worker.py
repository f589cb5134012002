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
from ...gradients import GradientMethod
from ...inversion import Inversion, invert
from ...objectives import ImageClassifier
from ...pipelines import encode_image
from ...report import save_picture
from ...runs import choose_device
from ...setup import Model, load_model
from .config import AuditConfig
from .items import audit_items
from .panel import Panel, from_bits, read_picture, to_bits

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
    noise: Tensor
    start: Tensor | None = None
    seconds: float = 0.0
    inversion_error: float | None = None
    inversion_calls: int = 0


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
        self.sampler = model.sampler
        # One sample that is not finite must not end the others: the batch looks at each.
        self.sampler.check_finite = False
        self.targeted = targeted
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

    def again(self) -> AuditWorker:
        """Return a worker with the same models and no items."""
        return AuditWorker(self.config, self.model, self.panel, self.targeted)

    def advance(self, items: Sequence[Item]) -> list[Result]:
        """Take new items, and make one update of all: one sampling run and one gradient.

        Args:
            items: new ones, as `audit_items` makes them.

        Returns:
            The results of those that ended. Their pictures are written.
        """
        failed = [result for item in items if (result := self._take(item)) is not None]
        taken: list[_Taken] = self._batch.items
        started = time.perf_counter()
        ended = self._batch.advance(self._look)
        seconds = (time.perf_counter() - started) / max(len(taken), 1)
        for one in taken:
            one.seconds += seconds
        return failed + [self._result(one) for one in ended]

    def _take(self, item: Item) -> Result | None:
        """Take an item; return its result if it cannot be begun, which is no fault of others."""
        classifier, found = self.panel.classifier, None
        if item["picture"] is None:
            noise = self.model.noise(1, torch.Generator().manual_seed(item["seed"]))
        else:
            try:
                found = self._invert(item)
            except (OSError, ValueError) as error:
                return {"id": item["id"], "error": str(error), "attempts": 1}
            noise = found.noise
        # On the host: what is drawn on the way is seeded by it at each update.
        taken = _Taken(item, noise.cpu())
        if found is not None:
            taken.inversion_calls, taken.inversion_error = found.num_calls, float(found.error)
        target = None if item["target"] is None else classifier.index(item["target"])
        label = classifier.index(item["label"])
        self._batch.add(taken, noise[0], label, target, seed=item["seed"])
        return None

    def _invert(self, item: Item) -> Inversion:
        """Return the noise that a picture is drawn from."""
        model = self.model
        image = read_picture(Path(item["picture"]))[None].to(model.device)
        latents = encode_image(model.pipe, image).detach()
        if latents.shape[1:] != model.latent_shape:
            raise ValueError(
                f"{item['picture']} has {image.shape[3]} x {image.shape[2]} pixels, but the "
                "pipeline draws pictures of another size; scale it"
            )
        cond = model.encode([item["prompt"]], self.config.negative_prompt)
        return invert(self.sampler, latents, **cond)

    def _look(self, points: Tensor, taken: Sequence[_Taken]) -> Evaluation:
        """Draw the pictures of noises, as files will hold them, and ask the classifier."""
        model, config = self.model, self.config
        prompts = [one.item["prompt"] for one in taken]
        if prompts != self._prompts:
            self._prompts, self._cond = prompts, model.encode(prompts, config.negative_prompt)
        if not self.calls_of_one:
            cost = self.sampler.cost(points, **self._cond)
            self.calls_of_one = cost.forward_calls + cost.recomputed_calls + cost.products
        source = model.on_the_way(torch.cat([one.noise for one in taken]))
        latents = self.sampler(points, generator=source, **self._cond)
        images = quantize(model.decode(latents))
        distance = None
        if config.picture_limit is not None:
            for one, image in zip(taken, images.detach(), strict=True):
                one.start = image.clone() if one.start is None else one.start
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
            "network_calls": ended.evaluations * self.calls_of_one + taken.inversion_calls,
            "inversion_error": taken.inversion_error,
            "seconds": taken.seconds,
            "start": start,
            "last": last,
            "best": best,
            "noise": None,
        }
        if ended.status == "fooled":
            result["noise"] = self._save_noise(taken, ended.best)
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

    def _save_noise(self, taken: _Taken, iterate: Iterate) -> str:
        config, model, item = self.config, self.model, taken.item
        name = f"{NOISES}/{item['id']}.safetensors"
        noise = Noise(
            iterate.point[None].cpu(),
            draws=model.draws(taken.noise),
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            prompt=item["prompt"],
            negative_prompt=config.negative_prompt,
            seed=item["seed"],
            plan=self.sampler.plan.name if model.in_single_steps else None,
            provenance=model.provenance,
        )
        save_noise(self._folder / name, noise)
        return name


def load_worker(
    config: AuditConfig,
    items: Sequence[Item],
    classifier: ImageClassifier | None = None,
    gradient: GradientMethod | None = None,
) -> AuditWorker:
    """Load the model and the panel, and return a worker.

    Args:
        config: settings.
        items: all that are to be worked on. Where one begins with a picture, DDIM at the times of
            the scheduler draws all of them: its steps can be undone.
        classifier: what is audited, in place of the one that the settings name.
        gradient: the gradient method; `Exact` within the memory budget by default.

    Raises:
        ValueError: a classifier does not know the class of an item.
    """
    device = choose_device(config.device)
    panel = Panel.load(config, device, classifier)
    panel.check(items)
    model = load_model(config, device, gradient)
    if any(item["picture"] for item in items):
        model = model.by_single_steps()
    return AuditWorker(config, model, panel, any(item["target"] for item in items))


def build_worker(settings: dict[str, Any]) -> AuditWorker:
    """Return a worker in a process of its own, from settings as `settings_of` gives them."""
    config = AuditConfig(**settings)
    return load_worker(config, audit_items(config))


def settings_of(config: AuditConfig) -> dict[str, Any]:
    """Return settings by name, as JSON holds them, with places that hold in any folder."""
    places = ("output_dir", "prompts_file", "pretrained_model_name_or_path", "classifier", "judge")
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}
    for name in places:
        if settings[name] is not None and Path(settings[name]).exists():
            settings[name] = str(Path(settings[name]).resolve())
    return settings
