"""What every pipeline's sampler needs besides its network: plan, clipping and guidance."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..gradients import Backprop
from ..plan import Plan, SchedulerRun, first_timestep
from ..sampler import Sampler
from ..schedule import Schedule
from .family import Family
from .image_to_image import ImageToImageSampler
from .requests import SamplingRequest

CLIPPING_TOLERANCE = 1e-4


def build_sampler(family: Family, request: SamplingRequest) -> Sampler:
    """Return the sampler of a pipeline's network under the settings of its scheduler.

    Raises:
        ValueError: the scheduler cannot be read, or clips x_0 in a way of its own; or
            ``true_cfg_scale`` is given where ``guidance_scale`` is the same.
    """
    if family.guided and request.true_cfg_scale > 1.0:
        raise ValueError(
            "true_cfg_scale is for pipelines whose network takes guidance_scale as an input, as "
            "that of Flux does; the weight of this one's two passes is guidance_scale"
        )
    network = family.network(request)  # first, since it refuses schedulers by their names
    scheduler = request.scheduler
    clipping = _clipping(scheduler)
    arguments = {"eta": request.eta} if _takes(scheduler.step, "eta") else {}
    set_timesteps = family.set_timesteps(request)
    steps, begin = request.num_inference_steps, 0
    if request.strength is not None and "strength" not in set_timesteps:
        begin = first_timestep(scheduler, steps, request.strength, family.rounds_up)
    if begin and request.plan is not None:
        raise ValueError(
            "strength leaves out steps of a scheduler; a plan of your own starts where its first "
            "timestep is, so build it from there and give strength=1.0"
        )
    driving = {"begin": begin, "step_arguments": arguments, **set_timesteps}
    plan = request.plan or Plan.from_scheduler(
        _without_clipping(scheduler) if _would_clip(scheduler) else scheduler, steps, **driving
    )
    prediction_type = plan.prediction_type or scheduler.config.get("prediction_type")
    if prediction_type is None:
        name = type(scheduler).__name__
        raise ValueError(
            f"nothing in the config of {name} says what its network predicts. Take a scheduler "
            "that says it, as scheduler=DDIMScheduler.from_config(pipe.scheduler.config, "
            "prediction_type=...), or differentiate the pipeline's own call with "
            "adjointdpm.differentiable(pipe)"
        )
    schedule = Schedule.from_config(scheduler.config)
    if clipping and request.plan is None:
        stub = Denoiser(_scripted, schedule, prediction_type, **clipping)
        _check_clipping(SchedulerRun(scheduler, steps, **driving), plan, stub)
    guidance_scale = request.guidance_scale if family.guided else request.true_cfg_scale
    if isinstance(guidance_scale, int | float):
        guidance_scale = max(guidance_scale, 1.0)  # less is none, as in diffusers
    by_time = family.guidance_scale(request)
    denoiser = Denoiser(
        network,
        schedule,
        prediction_type,
        guidance_scale=guidance_scale if by_time is None else by_time,
        guidance_rescale=request.guidance_rescale,
        guidance_passes=request.guidance_passes,
        **clipping,
    )
    if request.strength is None:
        return Sampler(denoiser, plan, gradient=request.gradient)
    start = None if request.plan else SchedulerRun(scheduler, steps, **driving).noising()
    return ImageToImageSampler(denoiser, plan, gradient=request.gradient, start=start)


def _takes(function: Callable[..., Any], argument: str) -> bool:
    return argument in inspect.signature(function).parameters


def _clipping(scheduler: Any) -> dict[str, Any]:
    """Return the clipping of x_0 that a scheduler's config asks for, as settings of `Denoiser`."""
    # A config that was another scheduler's may hold settings that the class does not know.
    own = inspect.signature(type(scheduler).__init__).parameters
    config = {name: value for name, value in scheduler.config.items() if name in own}
    names: tuple[str, ...] = ()
    if type(scheduler).__name__.startswith("CogVideoX"):  # their steps leave the settings unread
        return {}
    if config.get("thresholding"):
        names = ("thresholding", "dynamic_thresholding_ratio", "sample_max_value")
    elif config.get("clip_sample"):
        names = ("clip_sample", "clip_sample_range")
    return {name: config[name] for name in names if name in config}


def _would_clip(scheduler: Any) -> bool:
    return bool(_clipping(scheduler))


def _without_clipping(scheduler: Any) -> Any:
    settings = [name for name in ("clip_sample", "thresholding") if name in scheduler.config]
    return type(scheduler).from_config(scheduler.config, **dict.fromkeys(settings, False))


def _scripted(x: Tensor, t: Tensor, answers: dict[float, Tensor]) -> Tensor:
    """Answer as written down for the time, whatever the input: a network to test schedulers."""
    return answers[float(t[0])].to(x)


def _check_clipping(run: SchedulerRun, plan: Plan, denoiser: Denoiser) -> None:
    """Raise unless clipping in the denoiser is the same as the scheduler's own clipping.

    It is for schedulers that use the clipped x_0 alone. Some keep the noise of the unclipped
    prediction beside it (DDIM), which is no function of x_0 and has no place in a plan.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (2, 1, 4, 4)
    noise = torch.randn(shape, generator=generator)
    answers = {t: 3 * torch.randn(shape, generator=generator) for t in plan.timesteps.tolist()}

    own = run(
        noise,
        lambda k, _: answers[float(run.timesteps[k])],
        generator=torch.Generator().manual_seed(1),
    )
    sampler = Sampler(denoiser, plan, gradient=Backprop())
    with torch.no_grad():
        sample, inputs = sampler(
            noise,
            generator=torch.Generator().manual_seed(1),
            collect=lambda k, t, x, output, answer: x,
            answers=answers,
        )
    # Each of them: a last step may answer with x_0, and forget what came before it.
    pairs = zip([*inputs, sample], own, strict=True)
    errors = [(mine - theirs).abs().amax() / theirs.abs().amax() for mine, theirs in pairs]
    error = float(torch.stack(errors).amax())
    if not error < CLIPPING_TOLERANCE:
        raise ValueError(
            f"{run.name} clips x_0 but does not take the noise from the clipped x_0, so clipping "
            f"in the denoiser would not give its samples (off by {error:.1e}). Turn it off, as "
            f"latent pipelines do: scheduler={run.name}.from_config(pipe.scheduler.config, "
            "clip_sample=False, thresholding=False)"
        )
