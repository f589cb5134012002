"""Teaching a word: its vectors are optimised through the whole sampler, by any metric."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...certificate import Certificate
from ...gradients import GradientMethod
from ...objectives import Objective, as_objective
from ...report import Previews
from ...runs import (
    Callback,
    History,
    choose_device,
    environment,
    optimize,
    peak_memory,
    run_folder,
    share,
)
from ...setup import Goal, certify_gradient, load_model, needs_default, require_goal
from .config import EmbedConfig
from .noises import Noises, find_anchors
from .results import EmbedResult, Validation
from .subject import Subject

UNSEEN = 1_000_000
"""Added to the seed for the noises that the word is judged on and never optimised on."""


def run_embed(
    config: EmbedConfig,
    objective: Callable[[Tensor], Tensor] | None = None,
    *,
    gradient: GradientMethod | None = None,
) -> EmbedResult:
    """Teach a pipeline a word and save it into ``config.output_dir``.

    Args:
        config: settings.
        objective: an `Objective`, or a function as `as_objective` takes it, in place of the one
            that the settings name.
        gradient: the gradient method; `Exact` by default.

    Raises:
        ValueError: settings that name no objective, or a pipeline that takes no new word.
        OSError: the folder cannot be used; see `run_folder`.
    """
    started = time.perf_counter()
    metric = None if objective is None else as_objective(objective)
    require_goal(config, metric)
    device = choose_device(config.device)
    overwrite = config.overwrite_output_dir
    with run_folder(config.output_dir, "embed", overwrite=overwrite, config=config) as folder:
        model = load_model(config, device, gradient, with_default=needs_default(config, metric))
        goal = Goal(config, model.default, metric, device)
        subject = Subject(config, model)
        certificate = certify_word(subject, goal) if config.certifies else None
        noises = choose_noises(subject, goal.objective)
        unseen = _unseen_noise(subject)
        before = _pictures(subject, unseen)
        history = teach(subject, goal.objective, noises, _previews(subject, unseen[0]))
        after = _pictures(subject, unseen)
        file = subject.save(folder, {"objective": goal.description, "updates": len(history)})
        pairs = zip(subject.validation_templates, before, after, strict=True)
        validations = [
            Validation(
                template,
                first.cpu(),
                last.cpu(),
                metric_before=goal.measure(first),
                metric_after=goal.measure(last),
                readings_before=goal.read(first),
                readings_after=goal.read(last),
            )
            for template, first, last in pairs
        ]
    return EmbedResult(
        config=config,
        file=file,
        objective=goal.description,
        larger_is_better=goal.larger_is_better,
        templates=subject.templates,
        validations=validations,
        certificate=certificate,
        history=history,
        seconds=time.perf_counter() - started,
        peak_memory=peak_memory(device),
        environment=environment(device),
    )


def certify_word(subject: Subject, goal: Goal) -> Certificate:
    """Compare the gradient, for what the encoders make of the word, with measured derivatives."""
    model, seed = subject.model, subject.config.seed
    noise = model.noise(1, torch.Generator().manual_seed(seed))
    cond = subject.encode(subject.templates[:1])
    return certify_gradient(model.sampler, model.decode, goal.metric, noise, seed, **cond)


def choose_noises(subject: Subject, objective: Objective) -> Noises:
    """Return the noises of a run, with the best of many as anchors.

    They are drawn with the word as it starts, so that a run that goes on finds the same.
    """
    config = subject.config
    if not config.num_candidates:
        return Noises(subject.model.latent_shape, subject.templates)
    generator = torch.Generator().manual_seed(config.seed)
    noise = torch.randn(config.num_candidates, *subject.model.latent_shape, generator=generator)
    templates = [subject.templates[i % len(subject.templates)] for i in range(len(noise))]
    drawn = subject.draw_many(noise, templates).to(subject.model.device)
    anchors = find_anchors(drawn, objective, noise, templates, config.num_anchors, generator)
    return Noises(subject.model.latent_shape, subject.templates, anchors)


def teach(
    subject: Subject,
    objective: Objective,
    noises: Noises,
    callbacks: Sequence[Callback] = (),
) -> History:
    """Optimise the word until the settings' number of updates is made.

    Args:
        subject: the pipeline with its word, which is changed in place.
        objective: what to optimise; it may draw random numbers.
        noises: what the updates draw from.
        callbacks: told of steps and checkpoints.
    """
    config, size = subject.config, subject.config.train_batch_size
    losses = torch.empty(0)

    def loss(generator: torch.Generator) -> Tensor:
        nonlocal losses
        noise, templates = noises.draw(size, generator)
        images = subject.draw(share(noise), share(templates))
        each = objective.loss(images, generator)
        losses = each.detach()
        return each.mean() + 0 * noises.reach

    def project() -> None:
        subject.word.project()
        noises.widen(losses)

    variables = {**subject.tensors, **noises.tensors}
    return optimize(variables, loss, config, project=project, callbacks=callbacks)


def _previews(subject: Subject, noise: Tensor) -> list[Previews]:
    config, template = subject.config, subject.validation_templates[0]
    if config.validation_steps is None:
        return []

    def draw() -> Tensor:
        return subject.draw_many(noise[:8], [template] * len(noise[:8]))

    return [Previews(draw, config.output_dir, config.validation_steps)]


def _unseen_noise(subject: Subject) -> Tensor:
    """Return noises for each validation prompt, (templates, pictures, ...)."""
    config = subject.config
    generator = torch.Generator().manual_seed(config.seed + UNSEEN)
    shape = (len(subject.validation_templates), config.num_validation_images)
    return torch.randn(*shape, *subject.model.latent_shape, generator=generator)


def _pictures(subject: Subject, noise: Tensor) -> list[Tensor]:
    """Return the pictures of each validation prompt."""
    templates = subject.validation_templates
    return [
        subject.draw_many(each, [template] * len(each)).to(subject.model.device)
        for template, each in zip(templates, noise, strict=True)
    ]
