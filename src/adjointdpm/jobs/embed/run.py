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
    optimize,
    run_folder,
    share,
    usage_since,
)
from ...setup import Goal, certify_gradient, load_model, needs_default, require_goal
from .config import EmbedConfig
from .results import EmbedResult, Validation
from .start import Examples, best_candidates, inversion_error, invert
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
    with run_folder(config.output_dir, "embed", config=config) as folder:
        model = load_model(config, device, gradient, with_default=needs_default(config, metric))
        goal = Goal(config, model.default, metric, device)
        subject = Subject(config, model)
        certificate = certify_word(subject, goal) if config.certifies else None
        unseen = _unseen_noise(subject)
        before = _pictures(subject, unseen)
        examples = begin(subject, goal.objective)
        history = teach(subject, goal.objective, examples, _previews(subject, unseen[0]))
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
        **usage_since(started, device),
    )


def certify_word(subject: Subject, goal: Goal) -> Certificate:
    """Compare the gradient, for what the encoders make of the word, with measured derivatives."""
    model, seed = subject.model, subject.config.seed
    noise = model.noise(1, torch.Generator().manual_seed(seed))
    cond = subject.encode(subject.templates[:1])
    return certify_gradient(model.sampler, model.decode, goal.metric, noise, seed, **cond)


def begin(subject: Subject, objective: Objective) -> Examples | None:
    """Fit the word to the best pictures that it draws as it is, and return them.

    A run that goes on does the same, and then takes the word from its checkpoint.

    Args:
        subject: the pipeline with its word, which is changed in place.
        objective: says which pictures are the best.
    """
    config = subject.config
    if not config.num_candidates:
        return None
    examples = best_candidates(subject, objective)
    if config.inversion_steps:
        invert(subject, examples, config.inversion_steps)
    return examples


def teach(
    subject: Subject,
    objective: Objective,
    examples: Examples | None = None,
    callbacks: Sequence[Callback] = (),
) -> History:
    """Optimise the word through the sampler until the settings' number of updates is made.

    Args:
        subject: the pipeline with its word, which is changed in place.
        objective: what to optimise; it may draw random numbers.
        examples: pictures for which the network's error is to stay small beside it. What pleases a
            classifier and is not the thing has a word that is wrong for them.
        callbacks: told of steps and checkpoints.
    """

    def loss(generator: torch.Generator) -> Tensor:
        return update_loss(subject, objective, examples, generator)

    return optimize(
        subject.tensors, loss, subject.config, project=subject.word.project, callbacks=callbacks
    )


def update_loss(
    subject: Subject, objective: Objective, examples: Examples | None, generator: torch.Generator
) -> Tensor:
    """Return the objective's loss for newly drawn pictures, with the gradient of what is minimised.

    The error for the examples is in the gradient alone: what is told of an update, and what ends a
    run that went wrong, is the objective.

    Args:
        subject: the pipeline with its word.
        objective: what to optimise.
        examples: see `teach`.
        generator: on the CPU, from which noises, prompts and times are drawn.
    """
    config = subject.config
    size = config.train_batch_size
    noise = torch.randn(size, *subject.model.latent_shape, generator=generator)
    images = subject.draw(share(noise), share(subject.prompts(size, generator)))
    loss = objective.loss(images, generator).mean()
    if examples is None or not config.inversion_weight:
        return loss
    error = inversion_error(subject, examples, generator)
    return loss + config.inversion_weight * examples.spread * (error - error.detach())


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
