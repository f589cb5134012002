"""From given latents back to the noise that a sampler draws them from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..gradients import Run, Step, one_step_parts, run_step, steps_of, walk, walk_back
from ..guidance import GuidanceScale
from ..sampler import Sampler
from ..schedule import Schedule
from ..solvers import Reversal
from .fixed_point import FixedPoint, fixed_point

Call = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Inversion:
    """A noise, and how near the sampler comes to the given latents from it.

    Args:
        noise: (batch, ...) what to give the sampler.
        sample: (batch, ...) what it draws from that.
        error: (batch,) the distance of the sample from the given latents, relative to their norm.
        residuals: what each step, or the whole way of a reversible sampler, was left with: the
            largest of the batch, relative to the norm of where it ends; from the last step to the
            first.
        iterations: how often each of them was run.
        num_calls: network calls of the whole inversion, the sample included.
    """

    noise: Tensor
    sample: Tensor
    error: Tensor
    residuals: tuple[float, ...]
    iterations: tuple[int, ...]
    num_calls: int


@torch.no_grad()
def invert(
    sampler: Sampler,
    latents: Tensor,
    *,
    tolerance: float = 1e-4,
    max_iterations: int = 50,
    guidance_scale: GuidanceScale | None = None,
    **cond: Any,
) -> Inversion:
    """Return the noise from which a sampler draws given latents.

    Steps of a one-step method (DDIM, Euler, Heun) are undone one by one, each as a fixed point with
    Anderson acceleration (arXiv 2312.12540, 2309.04907), not by the first guess that DDIM inversion
    takes for it (arXiv 2105.05233). A sampler with `Reversible` is walked back by algebra; of
    its pair of states only one is known at the end, and the other is found by going there and back
    until both begin at one noise.

    Latents that no noise leads to have no inverse: the last step of most samplers pulls everything
    towards what the model knows. Look at ``error``, which is measured by sampling.

    Args:
        sampler: as it will be used, in evaluation mode. Of its gradient method only `Reversible`
            matters.
        latents: (batch, ...) clean latents, such as `encode_image` gives.
        tolerance: the residual of a step to stop at, relative to the norm of where it ends.
        max_iterations: the most runs of one step, or ways there and back.
        guidance_scale: as for the sampler.
        **cond: conditioning, as for the sampler.

    Returns:
        The noise, in the latents' dtype but at least float32, and what became of it. It has no
        gradient.

    Raises:
        ValueError: the plan draws noise on the way, is a multistep method, or leads from an unknown
            process; the denoiser clips its prediction; or a number is out of range.

    >>> from adjointdpm import Denoiser, Schedule, solvers
    >>> schedule = Schedule.vp_linear()
    >>> plan = solvers.build("ddim", schedule, num_inference_steps=8)
    >>> denoiser = Denoiser(lambda x, t: 0.9 * x + 0.1 * x.sin(), schedule)
    >>> sampler = Sampler(denoiser, plan)
    >>> noise = torch.randn(2, 3, dtype=torch.float64)
    >>> found = invert(sampler, sampler(noise), tolerance=1e-10)
    >>> bool((found.noise - noise).abs().max() < 1e-6)
    True
    """
    if not tolerance > 0 or max_iterations < 1:
        raise ValueError(
            "tolerance must be positive and max_iterations at least 1, not "
            f"{tolerance} and {max_iterations}"
        )
    _refuse_clipping(sampler)
    run = sampler.prepare(latents, cond, guidance_scale=guidance_scale)
    calls, schedule = _Calls(run), sampler.denoiser.schedule
    reversal = sampler.gradient.reversal(sampler.plan, schedule)
    if reversal is None:
        found = _undo_steps(sampler, run, calls, tolerance, max_iterations)
    else:
        found = _undo_pair(reversal, schedule, run, calls, tolerance, max_iterations)
    noise, residuals, iterations = found
    sample = sampler(noise, guidance_scale=guidance_scale, **cond)
    final = len(reversal.timesteps) if reversal is not None else sampler.plan.num_calls
    error = (sample - run.noise).flatten(1).norm(dim=1) / _norm(run.noise)
    return Inversion(noise, sample, error, residuals, iterations, calls.count + final)


Found = tuple[Tensor, tuple[float, ...], tuple[int, ...]]


class _Calls:
    """The network of a run, which counts its calls."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.count = 0

    def at(self, times: Any) -> Call:
        """Return the network as a function of the number of the call."""

        def call(k: int, x: Tensor) -> Tensor:
            self.count += 1
            given = x.to(self._run.noise.dtype)
            return self._run.denoiser(given, float(times[k]), **self._run.cond).to(x.dtype)

        return call


def _undo_steps(
    sampler: Sampler, run: Run, calls: _Calls, tolerance: float, max_iterations: int
) -> Found:
    """Undo a plan of one-step methods from its last step to its first."""
    plan = sampler.plan
    if plan.num_draws:
        raise ValueError(
            f"{plan.name} draws noise on the way, so its latents come from no noise alone; invert "
            "a deterministic sampler, such as DDIM"
        )
    steps = one_step_parts(plan, "an inversion", "Use a sampler with gradient=Reversible()")
    marginals = plan.marginals(sampler.denoiser.schedule)
    call, x = calls.at(plan.timesteps), run.noise
    residuals, iterations = [], []
    for step in reversed(steps):
        last = step.first + step.program.num_calls
        slope = _slope(marginals[step.first], marginals[last], plan.name)
        # The first step begins at the noise itself.
        slope *= 1.0 if step.first else float(plan.table[0, 0])
        found = _undo_step(step, call, x, slope, tolerance, max_iterations)
        x = found.x
        residuals.append(float(found.residual.max()))
        iterations.append(found.iterations)
    return x, tuple(residuals), tuple(iterations)


def _undo_step(
    step: Step, call: Call, end: Tensor, slope: float, tolerance: float, max_iterations: int
) -> FixedPoint:
    """Return the start of a step, given its end."""

    def closer(x: Tensor) -> Tensor:
        return x + (end - run_step(step, call, x)) / slope

    return fixed_point(
        closer,
        end / slope,
        unit=_norm(end) / slope,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )


def _slope(start: Sequence[float], end: Sequence[float], name: str) -> float:
    """Return what a step multiplies its start with, of data of variance one.

    Where data vary more or less, the slope is a little more or less, between that of the noise
    alone and that of the data alone.
    """
    (alpha, sigma), (alpha_after, sigma_after) = start, end
    slope = float((alpha * alpha_after + sigma * sigma_after) / (alpha**2 + sigma**2))
    if not slope > 0:
        raise ValueError(
            f"{name} goes from noise that holds no data to a clean sample in one step, which "
            "cannot be undone; take more steps"
        )
    return slope


def _undo_pair(
    reversal: Reversal,
    schedule: Schedule,
    run: Run,
    calls: _Calls,
    tolerance: float,
    max_iterations: int,
) -> Found:
    """Undo a reversible sampler: walk back, with the state that is not known from the way there."""
    call, newest = calls.at(reversal.timesteps), reversal.newest
    end = run.noise.double()
    residuals, iterations = [], []
    if reversal.closing is not None:
        t = reversal.timesteps[-1]
        slope = _slope((schedule.alpha(t), schedule.sigma(t)), (1.0, 0.0), reversal.name)
        step = steps_of(reversal)[-1]
        found = _undo_step(step, call, end, slope, tolerance, max_iterations)
        end = found.x
        residuals.append(float(found.residual.max()))
        iterations.append(found.iterations)

    def back(pair: tuple[Tensor, Tensor]) -> Tensor:
        first, second = walk_back(reversal, call, pair)
        return (first + second) / (2 * reversal.scale)

    def there_and_back(noise: Tensor) -> Tensor:
        pair = list(walk(reversal, call, reversal.scale * noise))
        pair[newest] = end
        return back((pair[0], pair[1]))

    start = back((end, end))
    found = fixed_point(
        there_and_back,
        start,
        unit=_norm(start),
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    residuals.append(float(found.residual.max()))
    iterations.append(found.iterations)
    return found.x.to(run.noise.dtype), tuple(residuals), tuple(iterations)


def _refuse_clipping(sampler: Sampler) -> None:
    denoiser = sampler.denoiser
    if denoiser.clip_sample or denoiser.thresholding:
        raise ValueError(
            "the denoiser clips its predicted sample (clip_sample or thresholding), so that many "
            "noises lead to one picture and none can be told from it"
        )


def _norm(latents: Tensor) -> Tensor:
    """Return the norm of each sample, (batch,), in float64; 1 where it is zero."""
    norm = latents.flatten(1).double().norm(dim=1)
    return torch.where(norm > 0, norm, 1.0)
