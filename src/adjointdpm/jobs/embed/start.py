"""Where a word begins: textual inversion of the pictures that its first word happens to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ...objectives import Objective
from ...prediction import output_of
from ...runs import OptimizeConfig, optimize, share
from .subject import Subject


@dataclass(frozen=True)
class Examples:
    """Pictures of what a word is to mean.

    Args:
        latents: (examples, ...) as the network was trained on them.
        spread: how far the objective is from the best of the candidates to the median one.
    """

    latents: Tensor
    spread: float = 1.0


@torch.no_grad()
def best_candidates(subject: Subject, objective: Objective) -> Examples:
    """Return the best pictures that the word draws as it is; at least one, and only good ones.

    Good is what is better than half way from the best to the median: for a classifier's margin
    about what has won.

    Args:
        subject: the word, and how many candidates to draw.
        objective: says how good a picture is.
    """
    config, model = subject.config, subject.model
    generator = torch.Generator().manual_seed(config.seed)
    noise = torch.randn(config.num_candidates, *model.latent_shape, generator=generator)
    templates = [subject.templates[i % len(subject.templates)] for i in range(len(noise))]
    found, values = [], []
    for part in torch.arange(len(noise)).split(subject.many):
        latents = subject.sample(noise[part], [templates[i] for i in part.tolist()])
        values.append(objective.loss(model.decode(latents), generator).cpu())
        found.append(latents.cpu())
    losses, best = torch.cat(values).sort(stable=True)
    spread = losses.median() - losses[0]
    kept = best[losses <= losses[0] + spread / 2][: config.num_examples]
    return Examples(torch.cat(found)[kept], spread.item())


def invert(subject: Subject, examples: Examples, steps: int) -> list[float]:
    """Fit the word to pictures by the network's own error: textual inversion (arXiv 2208.01618).

    Nothing goes through the sampler, so that an update takes a fraction of the time of one that
    does.

    Args:
        subject: the word, which is changed in place.
        examples: the pictures.
        steps: number of updates.

    Returns:
        The losses.
    """

    def loss(generator: torch.Generator) -> Tensor:
        return inversion_error(subject, examples, generator)

    given = {each.name: getattr(subject.config, each.name) for each in fields(OptimizeConfig)}
    changed: dict[str, Any] = {
        "max_train_steps": steps,
        "learning_rate": subject.config.inversion_learning_rate,
        "description": f"{subject.config.description}: start",
        # Checkpoints are those of the updates through the sampler.
        "output_dir": None,
        "checkpointing_steps": None,
        "resume_from_checkpoint": None,
        "report_to": None,
    }
    config = OptimizeConfig(**{**given, **changed})
    history = optimize(subject.tensors, loss, config, project=subject.word.project)
    return history.losses


def inversion_error(subject: Subject, examples: Examples, generator: torch.Generator) -> Tensor:
    """Return the network's error for a batch of pictures, noised to times of the sampler's calls.

    Args:
        subject: the word.
        examples: the pictures. Their prompts are any, so that what differs between prompts, such as
            a style, does not come to belong to the word.
        generator: on the CPU, from which the batch is drawn.
    """
    sampler, device = subject.model.sampler, subject.model.device
    times = torch.tensor(sampler.plan.timesteps)
    size = subject.config.inversion_batch_size
    chosen = torch.randint(len(examples.latents), (size,), generator=generator)
    t = times[torch.randint(len(times), (size,), generator=generator)]
    clean = examples.latents[chosen]
    noise = torch.randn(clean.shape, generator=generator)
    prompts = subject.prompts(size, generator)
    clean, noise, t = (share(each).to(device) for each in (clean, noise, t))
    return denoising_error(subject, clean, noise, t, share(prompts))


def denoising_error(
    subject: Subject, clean: Tensor, noise: Tensor, t: Tensor, templates: Sequence[str]
) -> Tensor:
    """Return the mean squared error of the network's answer for noised pictures, without guidance.

    Args:
        subject: the word.
        clean: (batch, ...) latents of pictures.
        noise: as many standard-normal ones.
        t: (batch,) times of the network.
        templates: the prompt of each.
    """
    denoiser = subject.model.sampler.denoiser
    schedule = denoiser.schedule
    shape = (-1, *[1] * (clean.ndim - 1))
    alpha, sigma = (f(t).to(clean.dtype).reshape(shape) for f in (schedule.alpha, schedule.sigma))
    of_clean, of_noise = output_of(denoiser.prediction_type, alpha, sigma)
    x = alpha * clean + sigma * noise
    answer = denoiser(x, t, guidance_scale=1.0, **subject.encode(templates))
    return (answer - (of_clean * clean + of_noise * noise)).square().mean()
