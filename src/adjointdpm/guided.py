"""Guiding a sample step by step, without training: its latent is moved along a gradient.

At each step the sample that the latent leads to is estimated with a few steps of its own, and the
gradient of a loss of it with respect to the latent is taken through these. With one inner step the
estimate is the predicted clean sample, as in DPS (arXiv 2209.14687) and FreeDoM (arXiv 2303.09833).
With a few it is symplectic adjoint guidance (SAG, arXiv 2312.12030).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import solvers
from .gradients import Exact, GradientMethod
from .per_step import PerStep
from .plan import Draws, Plan, Row
from .sampler import Generator, Sampler, checked_generator

Loss = Callable[[Tensor], Tensor]
"""From clean samples (batch, ...) to (batch,) numbers, of which smaller is better."""


@dataclass(frozen=True)
class StepGuidance:
    """How a latent is moved on its way.

    Args:
        strength: how far the latent is moved. The moves of all steps have the length ``strength``
            together, in units of the length of a standard-normal latent, and each step has a share
            of it as large as that of the noise that it takes away.
        inner_steps: network calls of an estimate of the sample, 1 to 5 or so; fewer near the end,
            where fewer are left.
        num_repeats: how often each step is made; before it is made again the latent gets the noise
            back that the step took (time travel, arXiv 2201.09865).
        start: share of the steps before guidance begins.
        end: share of the steps after which it ends.
        gradient: how the gradient of an estimate is taken; `Exact` by default, in the memory of one
            network call.

    Raises:
        ValueError: a setting has no sense.
    """

    strength: float = 0.5
    inner_steps: int = 4
    num_repeats: int = 1
    start: float = 0.0
    end: float = 1.0
    gradient: GradientMethod = field(default_factory=Exact)

    def __post_init__(self) -> None:
        if not 0 <= self.strength < float("inf"):
            raise ValueError(f"strength must not be negative, but is {self.strength}")
        for name in ("inner_steps", "num_repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(
                f"start and end are shares of the steps, 0 <= start < end <= 1, not {self.start} "
                f"and {self.end}"
            )

    def guides(self, k: int, num_steps: int) -> bool:
        """Return whether step k of a sampler is guided."""
        return self.start <= k / num_steps < self.end and self.strength > 0


def guided_sample(
    sampler: Sampler,
    noise: Tensor,
    loss: Loss,
    guidance: StepGuidance | None = None,
    *,
    generator: Generator | None = None,
    **cond: Any,
) -> Tensor:
    """Return samples whose loss is small, guided step by step.

    The samples of a batch are guided each on its own. The result has no gradient itself.

    Args:
        sampler: one whose steps call the network once and read nothing but the present latent, such
            as DDIM or Euler, of whatever prediction type. Its gradient method is not used.
        noise: (batch, ...) standard-normal latents.
        loss: of clean samples, (batch, ...) to (batch,): ``lambda x: objective.loss(decode(x))``.
        guidance: how the latents are moved.
        generator: source of the noises of stochastic samplers and of ``num_repeats``.
        **cond: conditioning, as for the sampler.

    Returns:
        (batch, ...) samples.

    Raises:
        ValueError: a sampler of another kind, conditioning by step, or a loss that is not one
            number a sample or has no gradient.

    >>> from adjointdpm import Denoiser, Schedule
    >>> schedule = Schedule.vp_linear()
    >>> denoiser = Denoiser(lambda x, t: 0 * x, schedule, "sample")
    >>> plan = solvers.build("ddim", schedule, 10, prediction_type="sample")
    >>> guided_sample(Sampler(denoiser, plan), torch.ones(2, 3), lambda x: x.square().sum(1)).shape
    torch.Size([2, 3])
    """
    guidance = guidance or StepGuidance()
    if any(isinstance(value, PerStep) for value in cond.values()):
        raise ValueError(
            "guided_sample looks ahead from each step with steps of its own, for which PerStep "
            "conditioning says nothing; pass conditioning that is the same at all steps"
        )
    run = _Guided(sampler, noise, loss, guidance, generator, cond)
    x = noise.detach() * float(sampler.plan.table[0, 0])
    for k in range(sampler.plan.num_calls):
        x = run.step(k, x)
    return x


class _Guided:
    """One guided run."""

    def __init__(
        self,
        sampler: Sampler,
        noise: Tensor,
        loss: Loss,
        guidance: StepGuidance,
        generator: Generator | None,
        cond: dict[str, Any],
    ) -> None:
        self._sampler, self._loss, self._guidance = sampler, loss, guidance
        self._cond = cond
        self._steps = _one_step_rows(sampler.plan)
        times, schedule = sampler.plan.timesteps, sampler.denoiser.schedule
        pairs = np.stack([schedule.alpha(times), schedule.sigma(times)], axis=1)
        self._marginals = np.concatenate([pairs, [[1.0, 0.0]]])  # at last a clean sample
        self._draws = Draws(noise.detach(), checked_generator(generator, len(noise)))
        self._num_drawn = 0

    def step(self, k: int, x: Tensor) -> Tensor:
        """Return the latent after step k, guided if it is its turn."""
        guided = self._guidance.guides(k, len(self._steps))
        repeats = self._guidance.num_repeats if guided else 1
        ahead = self._plan_ahead(k, self._guidance.inner_steps if guided else 1)
        for repeat in range(repeats):
            output, direction = self._look_ahead(ahead, x, guided)
            after = self._advance(k, x, output)
            if direction is not None:
                after = after - self._length(k, x) * direction
            if repeat < repeats - 1:
                x = self._travel_back(k, after)
        return after

    def _length(self, k: int, x: Tensor) -> float:
        """Return how far the latent is moved after step k."""
        before, after = self._marginals[k], self._marginals[k + 1]
        # The time of the flow form, which goes from 1 to 0 and is finite at both ends.
        taken = before[1] / before.sum() - after[1] / after.sum()
        return self._guidance.strength * x[0].numel() ** 0.5 * float(taken * after.sum())

    def _advance(self, k: int, x: Tensor, output: Tensor) -> Tensor:
        of_x, of_output, of_draws = self._steps[k]
        after = of_x * x + of_output * output
        for weight in of_draws:
            after = after + weight * self._draw()
        return after

    def _draw(self) -> Tensor:
        self._num_drawn += 1
        return self._draws(self._num_drawn - 1)

    def _plan_ahead(self, k: int, count: int) -> Plan:
        """Return at most ``count`` steps from step k to the end."""
        plan, denoiser = self._sampler.plan, self._sampler.denoiser
        count = min(count, plan.num_calls - k)
        chosen = np.linspace(k, plan.num_calls - 1, count).round().astype(int)
        return solvers.build(
            "euler",
            denoiser.schedule,
            count,
            timesteps=plan.timesteps[chosen].tolist(),
            prediction_type=denoiser.prediction_type,
            form="flow",
        )

    def _look_ahead(self, ahead: Plan, x: Tensor, guided: bool) -> tuple[Tensor, Tensor | None]:
        """Return what the network answers, and the direction in which the loss grows."""
        inner = Sampler(self._sampler.denoiser, ahead, self._guidance.gradient)
        with torch.set_grad_enabled(guided):
            x = x.detach().requires_grad_(guided)
            sample, outputs = inner(x / float(ahead.table[0, 0]), collect=_output, **self._cond)
            direction = self._direction(sample, x) if guided else None
        return outputs[0].detach(), direction

    def _direction(self, sample: Tensor, x: Tensor) -> Tensor:
        values = self._loss(sample)
        if values.shape != (len(sample),):
            raise ValueError(
                f"the loss must be one number a sample, ({len(sample)},), not of the shape "
                f"{tuple(values.shape)}"
            )
        if not values.requires_grad:
            raise ValueError(
                "the loss has no gradient: it must be computed from the samples it is given, with "
                "nothing detached"
            )
        (gradient,) = torch.autograd.grad(values.sum(), x)
        # Where a loss is flat there is nowhere to go.
        return gradient / _norm(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)

    def _travel_back(self, k: int, x: Tensor) -> Tensor:
        """Return a latent after step k with the noise of before."""
        (alpha, sigma), (alpha_after, sigma_after) = self._marginals[k], self._marginals[k + 1]
        ratio = alpha / alpha_after
        missing = max(sigma**2 - (ratio * sigma_after) ** 2, 0.0) ** 0.5
        return ratio * x + missing * self._draw()


def _output(k: int, t: Any, x: Tensor, output: Tensor, answer: Any) -> Tensor:
    return output


def _norm(x: Tensor) -> Tensor:
    """Return the length of each sample, (batch, 1, ...)."""
    return x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.ndim - 1))


def _one_step_rows(plan: Plan) -> list[tuple[float, float, list[float]]]:
    """Return, for each step, the weights of the latent, of the network's output and of draws.

    Raises:
        ValueError: a step reads something else.
    """
    return [_one_step_row(plan, k, row) for k, row in enumerate(plan.program.rows[1:])]


def _one_step_row(plan: Plan, k: int, row: Row) -> tuple[float, float, list[float]]:
    of_x = of_output = 0.0
    draws = []
    for (kind, number), weight in row:
        if kind == "noise" and k == 0:
            of_x += weight / float(plan.table[0, 0])
        elif (kind, number) == ("input", k):
            of_x += weight
        elif (kind, number) == ("output", k):
            of_output += weight
        elif kind == "draw":
            draws.append(weight)
        elif weight:
            raise ValueError(
                f"a step of {plan.name} reads more than the present latent, which guidance moves "
                "on the way: take a sampler of one call a step, such as DDIM or Euler"
            )
    return of_x, of_output, draws
