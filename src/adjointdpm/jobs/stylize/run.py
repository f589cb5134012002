"""A style, taken from one picture: weights are optimised through the whole sampler."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...assets import Default
from ...certificate import Certificate
from ...cost import Cost
from ...evaluation import Reading, read_pictures
from ...gradients import GradientMethod
from ...objectives import as_objective
from ...report import Previews
from ...runs import (
    Callback,
    History,
    choose_device,
    optimize,
    run_folder,
    share,
    usage_since,
)
from ...setup import certify_gradient, load_model
from .config import StylizeConfig
from .goal import Stylization, build_goal
from .model import StylizedModel
from .prompts import choose_prompts
from .results import Comparison, StylizeResult

EXAMPLES = 8
"""Pictures that say how far from the style the model is at the start."""
PREVIEWS = 8
"""Pictures that are drawn while the run goes on."""
UNSEEN = 1_000_000
"""Added to the seed for the noises of the report, which no update draws."""


def run_stylize(
    config: StylizeConfig,
    style: Callable[[Tensor], Tensor] | None = None,
    *,
    gradient: GradientMethod | None = None,
) -> StylizeResult:
    """Give a pipeline the style of a picture, and save the weights into ``config.output_dir``.

    Args:
        config: settings.
        style: an `Objective`, or a function as `as_objective` takes it, in place of the distance
            from the style picture.
        gradient: the gradient method; `Exact` by default.

    Raises:
        ValueError: settings that contradict each other, or do not fit the pipeline.
        OSError: the folder cannot be used; see `run_folder`.
    """
    started = time.perf_counter()
    objective = None if style is None else as_objective(style)
    if objective is not None and (config.objective or config.style_image):
        raise ValueError("a style was passed, but the settings name one too; leave one of them out")
    device = choose_device(config.device)
    with run_folder(config.output_dir, "stylize", config=config) as folder:
        loaded = load_model(config, device, gradient)
        default = loaded.default
        prompts, labels = choose_prompts(config, default.concepts if default else None)
        model = StylizedModel(config, loaded)
        unseen, noise = _unseen(model, list(labels))
        before = model.draw_many(noise, unseen)
        goal, picture = build_goal(config, objective, examples(model, prompts))
        certificate = certify_style(model, goal, prompts[0]) if config.certifies else None
        predicted = predict_cost(model, prompts)
        history = restyle(model, goal, prompts, _previews(model, unseen, noise))
        after = model.draw_many(noise, unseen)
        file = model.save(folder, {"style": _describe(config, style), "updates": len(history)})
    return StylizeResult(
        config=config,
        file=file,
        style=_describe(config, style),
        style_picture=picture,
        larger_is_better=goal.style.larger_is_better,
        prompts=len(prompts),
        comparisons=compare(goal, before, after, unseen, [labels[p] for p in unseen], default),
        num_weights=sum(weight.numel() for weight in model.weights.tensors.values()),
        predicted=predicted,
        certificate=certificate,
        history=history,
        **usage_since(started, device),
    )


def restyle(
    model: StylizedModel,
    goal: Stylization,
    prompts: Sequence[str],
    callbacks: Sequence[Callback] = (),
) -> History:
    """Optimise the weights until the settings' number of updates is made.

    Each update draws prompts and noises. The pictures that the model drew of them before any update
    are what the content is compared with.

    Args:
        model: the pipeline, whose weights are changed in place.
        goal: what to optimise.
        prompts: what the updates draw from.
        callbacks: told of steps and checkpoints.
    """
    config = model.config

    def loss(generator: torch.Generator) -> Tensor:
        size = config.train_batch_size
        chosen = torch.randint(len(prompts), (size,), generator=generator).tolist()
        batch = share([prompts[i] for i in chosen])
        noise = share(model.model.noise(size, generator))
        with model.weights.at_start():
            base = model.draw(noise, batch)
        return goal(model.draw(noise, batch), base, generator).mean()

    return optimize(model.weights.tensors, loss, config, callbacks=callbacks)


def examples(model: StylizedModel, prompts: Sequence[str]) -> Tensor:
    """Return pictures that the model draws as it is, (examples, 3, height, width) in [0, 1]."""
    noise = model.model.noise(EXAMPLES, torch.Generator().manual_seed(model.config.seed))
    chosen = [prompts[i * len(prompts) // EXAMPLES] for i in range(EXAMPLES)]
    return model.draw_many(noise, chosen).to(model.model.device)


def predict_cost(model: StylizedModel, prompts: Sequence[str]) -> Cost:
    """Return what the sampler's gradient of one update will take."""
    size = model.config.train_batch_size
    noise = model.model.noise(size, torch.Generator().manual_seed(0))
    return model.model.sampler.cost(noise, **model.encode([prompts[0]] * size))


def certify_style(model: StylizedModel, goal: Stylization, prompt: str) -> Certificate:
    """Compare the gradient of the style, for the weights too, with differences of sampling runs."""
    loaded, seed = model.model, model.config.seed
    noise = loaded.noise(1, torch.Generator().manual_seed(seed))
    cond = model.encode([prompt])
    return certify_gradient(loaded.sampler, loaded.decode, goal.style, noise, seed, **cond)


@torch.no_grad()
def compare(
    goal: Stylization,
    before: Tensor,
    after: Tensor,
    prompts: Sequence[str],
    labels: Sequence[str | None],
    default: Default | None,
) -> list[Comparison]:
    """Return what became of pictures.

    Args:
        goal: what was optimised.
        before: (pictures, 3, height, width) in [0, 1].
        after: the same prompts and noises.
        prompts: one for each.
        labels: the class that each names, if the classifiers know one.
        default: the embedded model with its classifiers, where it is the one.
    """
    device = next(goal.content.parameters()).device
    found = []
    for i, prompt in enumerate(prompts):
        first, last = (images[i : i + 1].to(device) for images in (before, after))
        comparison = Comparison(
            prompt=prompt,
            before=before[i],
            after=after[i],
            style_before=goal.style_of(first, torch.Generator().manual_seed(0)).item(),
            style_after=goal.style_of(last, torch.Generator().manual_seed(0)).item(),
            content=goal.content_distance(last, first).item(),
            reading_before=_read(first, labels[i], default),
            reading_after=_read(last, labels[i], default),
        )
        found.append(comparison)
    return found


def _read(images: Tensor, label: str | None, default: Default | None) -> Reading | None:
    if label is None or default is None:
        return None
    return read_pictures(images, label, default.classifier, default.judge)[0]


def _previews(model: StylizedModel, prompts: Sequence[str], noise: Tensor) -> list[Callback]:
    config = model.config
    if config.validation_steps is None:
        return []

    def draw() -> Tensor:
        return model.draw_many(noise[:PREVIEWS], prompts[:PREVIEWS])

    return [Previews(draw, config.output_dir, config.validation_steps)]


def _unseen(model: StylizedModel, prompts: Sequence[str]) -> tuple[list[str], Tensor]:
    """Return the prompts and noises of the report."""
    config = model.config
    count = config.num_validation_images
    generator = torch.Generator().manual_seed((config.seed + UNSEEN) % 2**32)
    return [prompts[i % len(prompts)] for i in range(count)], model.model.noise(count, generator)


def _describe(config: StylizeConfig, style: Callable[[Tensor], Tensor] | None) -> str:
    if style is not None:
        return getattr(style, "__name__", type(style).__name__)
    if config.style_image is not None:
        return Path(config.style_image).name
    return config.objective or "painted strokes"
