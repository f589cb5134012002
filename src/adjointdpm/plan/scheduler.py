"""Driving a diffusers scheduler as its pipelines do: timesteps, begin index, step after step."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_MEMORY = ("old_pred_original_sample", "timestep_back")
"""Arguments of ``step`` in which CogVideoXDPMScheduler lets the pipeline remember for it."""


def _signature(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _copied(scheduler: Any) -> Any:
    """Return a copy, without the graphs of what a run with gradients left in it."""
    left = (each for each in pytree.tree_leaves(vars(scheduler)) if isinstance(each, Tensor))
    return copy.deepcopy(scheduler, {id(each): each.detach().clone() for each in left})


class SchedulerRun:
    """A diffusers scheduler with its timesteps set, to be run from there as a pipeline runs it.

    This is the one place that drives schedulers. The scheduler that is given is left as it is.

    Args:
        scheduler: any whose ``step`` takes model_output, timestep and sample.
        num_inference_steps: passed to ``scheduler.set_timesteps``.
        timesteps: custom timesteps, where the scheduler takes them.
        sigmas: custom sigmas, where the scheduler takes them.
        step_arguments: further arguments of every ``step``, such as ``{"eta": 1.0}``.
        begin: how many of the timesteps are left out at the start.
        **set_timesteps_arguments: further arguments of ``set_timesteps``, such as ``mu``.

    Raises:
        ValueError: the scheduler has no ordinary ``step``, or does not take an argument or setting.
    """

    def __init__(
        self,
        scheduler: Any,
        num_inference_steps: int | None = None,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        step_arguments: Mapping[str, Any] | None = None,
        begin: int = 0,
        **set_timesteps_arguments: Any,
    ) -> None:
        self.name = type(scheduler).__name__
        self.begin = begin
        _check_interface(scheduler)
        scheduler = _copied(scheduler)
        requested = {
            "num_inference_steps": num_inference_steps,
            "timesteps": timesteps,
            "sigmas": sigmas,
            **set_timesteps_arguments,
        }
        requested = {key: value for key, value in requested.items() if value is not None}
        if not {"num_inference_steps", "timesteps", "sigmas"} & set(requested):
            raise ValueError("give num_inference_steps, timesteps or sigmas")
        if num_inference_steps is not None and not isinstance(num_inference_steps, Integral):
            raise TypeError(
                f"num_inference_steps must be a whole number, not {num_inference_steps!r}"
            )
        if num_inference_steps is not None and num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, not {num_inference_steps}")
        self._check_taken("set_timesteps", scheduler.set_timesteps, requested)
        self.step_arguments = dict(step_arguments or {})
        self._check_taken("step", scheduler.step, self.step_arguments)
        try:
            scheduler.set_timesteps(**requested)
        except Exception as error:
            given = ", ".join(f"{key}={value}" for key, value in requested.items())
            raise ValueError(
                f"{self.name}.set_timesteps({given}) fails: {type(error).__name__}: {error}. It "
                f"takes {', '.join(_signature(scheduler.set_timesteps))}; give it what it misses"
            ) from error
        self._scheduler = scheduler
        total, order = len(scheduler.timesteps), getattr(scheduler, "order", 1)
        if not 0 <= begin < total:
            raise ValueError(f"begin={begin} leaves none of the {total} timesteps")
        if begin % order:
            raise ValueError(
                f"begin={begin} lies within a step of {self.name}, which takes {order} calls a "
                f"step: use a multiple of {order}"
            )
        self.timesteps: Tensor = scheduler.timesteps[begin:].detach().cpu()
        """The network's time at each call."""

    def _check_taken(
        self, name: str, function: Callable[..., Any], arguments: Mapping[str, Any]
    ) -> None:
        unknown = set(arguments) - set(_signature(function))
        if unknown:
            raise ValueError(f"{self.name}.{name} does not take {', '.join(sorted(unknown))}")

    @property
    def num_calls(self) -> int:
        """How many times the network is called."""
        return len(self.timesteps)

    @property
    def takes_generator(self) -> bool:
        """Whether ``step`` may draw noise."""
        return "generator" in _signature(self._scheduler.step)

    @property
    def init_noise_sigma(self) -> float:
        """What the standard-normal latent is multiplied with at the start."""
        return float(getattr(self._scheduler, "init_noise_sigma", 1.0))

    def _begun(self) -> Any:
        """Return a scheduler that is about to take the first step."""
        scheduler = copy.deepcopy(self._scheduler)
        if self.begin and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(self.begin)
        if hasattr(scheduler, "get_lms_coefficient"):
            # Its integrals take 20 ms a step on tensors of one number, and a hundredth on floats.
            on_floats = copy.copy(scheduler)
            on_floats.sigmas = scheduler.sigmas.tolist()
            scheduler.get_lms_coefficient = on_floats.get_lms_coefficient
        return scheduler

    def __call__(
        self,
        noise: Tensor,
        network: Callable[[int, Tensor], Tensor],
        generator: torch.Generator | None = None,
        num_calls: int | None = None,
    ) -> list[Tensor]:
        """Run the scheduler's loop; return the network inputs in order, then the sample.

        Args:
            noise: (batch, channels, height, width) standard-normal latent.
            network: ``network(k, x)`` answers the input of call k.
            generator: for ``step``, where it takes one.
            num_calls: after how many calls to stop; by default after all.
        """
        scheduler = self._begun()
        arguments = dict(self.step_arguments)
        if generator is not None and self.takes_generator:
            arguments["generator"] = generator
        last: dict[str, Any] = dict.fromkeys(set(_MEMORY) & set(_signature(scheduler.step)))
        scales = hasattr(scheduler, "scale_model_input")
        inputs: list[Tensor] = []
        sample = noise * self.init_noise_sigma
        for k, t in enumerate(scheduler.timesteps[self.begin :][:num_calls]):
            inputs.append(scheduler.scale_model_input(sample, t) if scales else sample)
            output = network(k, inputs[-1])
            try:
                result = scheduler.step(
                    model_output=output,
                    timestep=t,
                    sample=sample,
                    return_dict=False,
                    **last,
                    **arguments,
                )
            except Exception as error:
                raise ValueError(
                    f"{self.name}.step fails at timestep {float(t):g} of those it was set to: "
                    f"{type(error).__name__}: {error}. Where the pipeline itself works it calls "
                    "its scheduler in a way of its own: differentiate that with "
                    "adjointdpm.differentiable(pipe)"
                ) from error
            sample = result[0]
            if last:
                last = dict(zip(_MEMORY, (result[1], t), strict=True))
        return [*inputs, sample]

    def noising(self) -> tuple[float, float]:
        """Return the alpha and sigma with which the scheduler noises a picture for its first step.

        They are in units of the latent that a run starts from, and read from the scheduler, since
        some round the timestep of a sigma.
        """
        scheduler = copy.deepcopy(self._scheduler)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(self.begin)
        first = scheduler.timesteps[self.begin : self.begin + 1]
        one, zero = torch.tensor([[[[1.0]], [[0.0]]]], dtype=torch.float64).unbind(1)
        if hasattr(scheduler, "scale_noise"):
            alpha = scheduler.scale_noise(one, first, zero)
            sigma = scheduler.scale_noise(zero, first, one)
        else:
            alpha = scheduler.add_noise(one, zero, first)
            sigma = scheduler.add_noise(zero, one, first)
        return float(alpha) / self.init_noise_sigma, float(sigma) / self.init_noise_sigma


def first_timestep(
    scheduler: Any, num_inference_steps: int, strength: float, rounds_up: bool = False
) -> int:
    """Return how many timesteps image-to-image of a ``strength`` leaves out, as diffusers does.

    Args:
        scheduler: of the pipeline.
        num_inference_steps: of the whole way from noise.
        strength: the share of them to take.
        rounds_up: whether part of a step counts as one.

    Raises:
        ValueError: the strength is not in (0, 1], or leaves no step.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be in (0, 1], not {strength}")
    share = num_inference_steps * strength
    steps = math.ceil(share) if rounds_up else math.floor(share)
    if steps == 0:
        raise ValueError(
            f"strength={strength} leaves none of {num_inference_steps} steps; it must be at least "
            f"{1 / num_inference_steps:.3g}, or num_inference_steps larger"
        )
    return int((num_inference_steps - steps) * getattr(scheduler, "order", 1))


def _check_interface(scheduler: Any) -> None:
    """Raise unless the scheduler is driven by set_timesteps and an ordinary step."""
    name = type(scheduler).__name__
    if not hasattr(scheduler, "set_timesteps") or not hasattr(scheduler, "step"):
        raise ValueError(f"{name} has no set_timesteps and step, so it cannot be read as a plan")
    taken = _signature(scheduler.step)
    driven = {"model_output", "timestep", "sample", *_MEMORY}
    needed = {
        key
        for key, parameter in taken.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    if not {"model_output", "timestep", "sample"} <= set(taken) or needed - driven:
        raise ValueError(
            f"{name}.step takes {', '.join(taken)}; only schedulers whose step takes "
            "model_output, timestep and sample can be read as a plan. To differentiate the "
            "pipeline's own loop instead, use adjointdpm.differentiable(pipe)"
        )
