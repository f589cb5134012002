"""Guiding single samples: by their noise through the whole sampler, or step by step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...certificate import Certificate
from ...cost import Cost
from ...evaluation import Reading, SuccessRate, success_rate
from ...formats import Noise, save_noise
from ...gradients import GradientMethod
from ...guided import StepGuidance, guided_sample
from ...objectives import Objective, as_objective
from ...runs import (
    History,
    RunResult,
    choose_device,
    optimize,
    run_folder,
    usage_since,
)
from ...setup import (
    Goal,
    Model,
    certify_gradient,
    drawing_code,
    load_model,
    needs_default,
    require_goal,
)
from ...variables import project_to_typical
from .config import GuideConfig


@dataclass(frozen=True)
class Ending:
    """The pictures of one end of a run.

    Args:
        images: (num_images, 3, height, width) in [0, 1].
        metric: what the objective says of each.
        readings: what classifier and judge read, where a class of theirs is the goal.
    """

    images: Tensor
    metric: list[float]
    readings: list[Reading]

    @property
    def recognised(self) -> SuccessRate | None:
        """How often the judge saw the goal; None without a judge."""
        if not self.readings:
            return None
        return success_rate(reading.recognised for reading in self.readings)


@dataclass(frozen=True)
class GuideResult(RunResult):
    """What became of the samples.

    Args:
        config: the settings.
        objective: what was optimised, in words.
        larger_is_better: the direction of it.
        before: the pictures without guidance.
        after: the same noises, guided.
        losses: the mean loss at each update, or at each step.
        history: losses and timings of the updates; None for ``steps``.
        predicted: the cost of one gradient through the sampler, before the run.
        certificate: how right the gradient is, where it was measured.
        noise_file: the optimised noise; None for ``steps``.
        drawing: code that draws its pictures.
    """

    config: GuideConfig
    objective: str
    larger_is_better: bool
    before: Ending
    after: Ending
    losses: list[float]
    history: History | None
    predicted: Cost
    certificate: Certificate | None
    noise_file: Path | None
    drawing: str


def run_guide(
    config: GuideConfig,
    objective: Callable[[Tensor], Tensor] | None = None,
    *,
    gradient: GradientMethod | None = None,
) -> GuideResult:
    """Draw pictures of a prompt that an objective likes; write the noise into the folder.

    Args:
        config: settings.
        objective: an `Objective`, or a function as `as_objective` takes it, in place of the one
            that the settings name.
        gradient: the gradient method; `Exact` within the memory budget by default.

    Raises:
        ValueError: settings that name no objective, or a sampler that ``steps`` cannot guide.
        OSError: the folder cannot be used; see `run_folder`.
    """
    started = time.perf_counter()
    metric = None if objective is None else as_objective(objective)
    require_goal(config, metric)
    device = choose_device(config.device)
    with run_folder(config.output_dir, "guide", config=config) as folder:
        model = load_model(config, device, gradient, with_default=needs_default(config, metric))
        goal = Goal(config, model.default, metric, device)
        guided = _Guided(config, model, goal)
        certificate = guided.certify() if config.certifies else None
        before = guided.ending(guided.sample().detach())
        predicted = guided.sampler.cost(guided.noise.clone().requires_grad_(), **guided.cond)
        history, file = None, None
        if config.method == "noise":
            history = guided.optimise_noise()
            losses = history.losses
            file = guided.save_noise(folder)
            after = guided.ending(guided.sample().detach())
        else:
            sample, losses = guided.move_latents()
            after = guided.ending(sample)
    return GuideResult(
        config=config,
        objective=goal.description,
        larger_is_better=goal.larger_is_better,
        before=before,
        after=after,
        losses=losses,
        history=history,
        predicted=predicted,
        certificate=certificate,
        noise_file=file,
        drawing=drawing_code(model, config.negative_prompt),
        **usage_since(started, device),
    )


class _Guided:
    """The samples of a run."""

    def __init__(self, config: GuideConfig, model: Model, goal: Goal) -> None:
        if config.method == "steps":
            model = model.by_single_steps()
        self._config, self._model, self._goal = config, model, goal
        assert config.prompt is not None
        self._prompts = [config.prompt] * config.num_images
        self.cond: dict[str, Any] = model.encode(self._prompts, config.negative_prompt)
        generator = torch.Generator().manual_seed(config.seed)
        self._start = model.noise(config.num_images, generator)
        self.noise = project_to_typical(self._start)
        self.sampler = model.sampler
        self._on_the_way = model.on_the_way(self._start)

    def sample(self) -> Tensor:
        """Return the latents of the noise as it is; all that is drawn on its way stays the same."""
        return self.sampler(self.noise, generator=self._on_the_way, **self.cond)

    @torch.no_grad()
    def ending(self, latents: Tensor) -> Ending:
        """Return the pictures of latents, and what is to be said of them."""
        images = self._model.decode(latents)
        return Ending(images.cpu(), self._goal.measure(images), self._goal.read(images))

    def optimise_noise(self) -> History:
        """Turn the noise until the objective is met; its length stays that of noise."""
        model, noise = self._model, self.noise.requires_grad_()

        def loss(generator: torch.Generator) -> Tensor:
            images = model.decode(self.sample())
            return self._goal.objective.loss(images, generator).mean()

        def project() -> None:
            noise.copy_(project_to_typical(noise))

        history = optimize({"noise": noise}, loss, self._config, project=project)
        noise.requires_grad_(False)
        return history

    def save_noise(self, folder: Path) -> Path:
        """Save the noise with what draws its pictures; return its file."""
        config = self._config
        negative = config.negative_prompt
        noise = Noise(
            self.noise,
            draws=self._model.draws(self._start),
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            prompt=self._prompts,
            negative_prompt=None if negative is None else [negative] * config.num_images,
            seed=config.seed,
            provenance=self._model.provenance,
        )
        return save_noise(folder / "noise.safetensors", noise)

    def move_latents(self) -> tuple[Tensor, list[float]]:
        """Sample with the latents moved at each step; return them, and the loss of each step."""
        config, model = self._config, self._model
        guidance = StepGuidance(
            strength=config.strength,
            inner_steps=config.inner_steps,
            num_repeats=config.num_repeats,
            start=config.guidance_start,
            end=config.guidance_end,
            gradient=self.sampler.gradient,
        )
        generator = torch.Generator().manual_seed(config.seed + 1)
        objective: Objective = self._goal.objective
        losses: list[Tensor] = []

        def loss(latents: Tensor) -> Tensor:
            values = objective.loss(model.decode(latents), generator)
            losses.append(values.detach().mean())
            bar.update()
            return values

        steps = self.sampler.plan.num_calls
        with tqdm(
            total=sum(guidance.guides(k, steps) for k in range(steps)) * config.num_repeats,
            desc=config.description,
            disable=not config.progress_bar,
            unit="step",
        ) as bar:
            sample = guided_sample(
                self.sampler, self.noise, loss, guidance, generator=generator, **self.cond
            )
        return sample, torch.stack(losses).tolist() if losses else []

    def certify(self) -> Certificate:
        """Compare the gradient for the first noise with central differences of sampling runs."""
        model, config = self._model, self._config
        cond = model.encode(self._prompts[:1], config.negative_prompt)
        return certify_gradient(
            self.sampler, model.decode, self._goal.metric, self.noise[:1], config.seed, **cond
        )
