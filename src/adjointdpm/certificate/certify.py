"""How good is this gradient? Measured, not promised.

A certificate compares a sampler's gradient with two things that share nothing with it: the gradient
by plain autograd through all network calls, with the graphs that torch itself records, and
derivatives of whole sampling runs along random directions, in which no gradient occurs. Everything
runs on copies in float64, where a difference of two runs still has eight digits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..gradients import Backprop
from ..sampler import Sampler
from .results import Certificate, TargetCertificate, relative_distance
from .subject import Gradient, Objective, Subject

Derivatives = Literal["auto", "central", "forward"]
Progress = Callable[[str], None]


def certify(
    sampler: Sampler,
    noise: Tensor,
    objective: Objective,
    *,
    num_directions: int = 3,
    step: float = 1e-5,
    derivatives: Derivatives = "auto",
    by_step: bool = False,
    max_error: float = 0.1,
    checkpoint: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    **cond: Any,
) -> Certificate:
    """Measure how good the sampler's gradient of an objective is.

    The targets are the noise, every tensor of the conditioning that requires grad, and the
    network's weights that require grad, taken together. `Reversible` is a sampler of its own, and
    is judged as that: against the gradient of what it computes. Hooks on weights run on the copies
    of them too: what they do to a gradient belongs to it.

    Args:
        sampler: with the gradient method to be judged.
        noise: (batch, ...) where to look.
        objective: from samples to a number or one for each sample, which are summed. An
            ``nn.Module`` is run in float64; any other callable is given samples in the noise's own
            dtype, and the differences then have its digits.
        num_directions: random directions in which the derivative is measured.
        step: half the length of a difference, relative to the norm of the target.
        derivatives: how they are measured. ``forward`` mode differentiation has no truncation
            error, but needs a network whose operators have it, and believes a ``detach``.
            ``central`` differences of runs believe nothing, and lose digits to kinks and to parts
            of a network that compute in float32; how many is measured too. ``auto`` is ``forward``
            where the network has it, else ``central``.
        by_step: also compare the adjoints of the state along the trajectory, to see where an error
            arises. Not for samplers that draw.
        max_error: the largest relative error of a gradient that is called good. At 0.1 the cosine
            is 0.995; an optimiser will hardly notice.
        checkpoint: keep no graphs for plain autograd but run calls again, in
            ``torch.utils.checkpoint``: for networks of which all graphs do not fit into memory.
        seed: of the directions, and of what a stochastic sampler draws.
        progress: is told in words what comes next.
        **cond: conditioning, as the sampler takes it.

    Returns:
        The certificate; ``print`` it, or take its numbers, its ``verdict`` and whether it
        ``passed``.

    Raises:
        ValueError: an unknown word, no directions, a step or an error that is not positive, or
            ``by_step`` where there are no steps to follow.
        NotImplementedError: ``forward`` was asked for, and the network has an operator without.

    >>> from adjointdpm import Denoiser, Schedule, solvers
    >>> schedule = Schedule.vp_linear()
    >>> denoiser = Denoiser(lambda x, t: x.sin(), schedule)
    >>> sampler = Sampler(denoiser, solvers.build("ddim", schedule, num_inference_steps=5))
    >>> certificate = certify(sampler, torch.ones(1, 2).double(), torch.sum)
    >>> certificate.targets[0].difference_error < 1e-6, certificate.verdict
    (True, 'exact: the gradient is that of plain autograd, to rounding')
    """
    if derivatives not in get_args(Derivatives):
        raise ValueError(f"derivatives must be auto, central or forward, not {derivatives!r}")
    if num_directions < 1:
        raise ValueError(f"num_directions must be at least 1, not {num_directions}")
    if not (step > 0 and max_error > 0):
        raise ValueError(f"step and max_error must be positive, not {step} and {max_error}")
    tell = progress if progress is not None else _tell_nobody
    subject = Subject(sampler, noise, objective, seed, cond)
    if by_step:
        subject.check_has_steps()
    reference_method = Backprop(checkpoint=checkpoint)
    tell("the gradient by plain autograd")
    reference = subject.gradient(reference_method, subject.reference, keep=True)
    tell(f"the gradient by {sampler.gradient!r}")
    judged = subject.gradient(sampler.gradient, sampler.plan, keep=by_step)
    if derivatives == "auto":
        derivatives = "forward" if subject.has_forward_mode() else "central"
    generator = torch.Generator().manual_seed(seed)
    targets = []
    for name in subject.targets:
        tell(f"derivatives along {num_directions} directions for {name}, {derivatives}")
        targets.append(
            _judge(subject, name, judged, reference, derivatives, num_directions, step, generator)
        )
    tell("peak memory")
    return Certificate(
        method=repr(sampler.gradient),
        plan=repr(sampler.plan),
        targets=tuple(targets),
        forward_calls=judged.forward_calls,
        backward_calls=judged.backward_calls,
        seconds=judged.seconds,
        reference=repr(reference_method),
        reference_seconds=reference.seconds,
        peak_memory=subject.peak_memory(),
        derivatives=derivatives,
        reconstruction_error=judged.notes.round_trip,
        by_step=subject.by_step(judged, reference) if by_step else (),
        max_error=max_error,
    )


def _judge(
    subject: Subject,
    name: str,
    judged: Gradient,
    reference: Gradient,
    derivatives: Derivatives,
    num_directions: int,
    step: float,
    generator: torch.Generator,
) -> TargetCertificate:
    """Compare the gradient for one target with autograd's and with measured derivatives."""
    gradient, expected = judged.targets[name], reference.targets[name]
    computed, predicted, measured, doubled = [], [], [], []
    for _ in range(num_directions):
        direction = torch.randn(len(expected), generator=generator, dtype=expected.dtype)
        direction = (direction / direction.norm()).to(expected.device)
        computed.append(float(gradient @ direction))
        predicted.append(float(expected @ direction))
        if derivatives == "forward":
            measured.append(subject.forward_derivative(name, direction))
        else:
            length = step * subject.norm(name)
            measured.append(subject.central_difference(name, direction, length))
            doubled.append(subject.central_difference(name, direction, 2 * length))
    norm, size = float(gradient.norm()), float(expected.norm())
    return TargetCertificate(
        name=name,
        norm=norm,
        relative_error=relative_distance(gradient, expected),
        cosine=float(gradient @ expected) / (norm * size) if norm and size else float(norm == size),
        computed=tuple(computed),
        expected=tuple(predicted),
        measured=tuple(measured),
        uncertainty=relative_distance(doubled, measured) if doubled else 0.0,
    )


def _tell_nobody(_: str) -> None:
    pass
