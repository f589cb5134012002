"""How good is this gradient? Measured, not promised.

A certificate compares a sampler's gradient with two things that do not share its code: `Exact`, and
central differences of whole sampling runs along random directions, which share no derivative at
all. Everything runs on copies in float64, where a difference of two runs still has eight digits.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..gradients import Exact
from ..sampler import Sampler
from .results import Certificate, TargetCertificate
from .subject import Objective, Subject

Derivatives = Literal["central", "forward"]


def certify(
    sampler: Sampler,
    noise: Tensor,
    objective: Objective,
    *,
    num_directions: int = 3,
    step: float = 1e-5,
    derivatives: Derivatives = "central",
    by_step: bool = False,
    seed: int = 0,
    **cond: Any,
) -> Certificate:
    """Measure how good the sampler's gradient of an objective is.

    The targets are the noise, every tensor of the conditioning that requires grad, and the
    network's weights that require grad, taken together. `Reversible` is a sampler of its own, and
    is judged as that: against the exact gradient of what it computes.

    Args:
        sampler: with the gradient method to be judged.
        noise: (batch, ...) where to look.
        objective: from samples to a number or one for each sample, which are summed. An
            ``nn.Module`` is run in float64; any other callable is given samples in the noise's own
            dtype, and the differences then have its digits.
        num_directions: random directions in which the derivative is measured.
        step: half the length of a difference, relative to the norm of the target.
        derivatives: ``central`` differences, or ``forward`` mode differentiation, which has no
            truncation error but needs a network whose operators have it.
        by_step: also compare the adjoints of the state along the trajectory, to see where an error
            arises. Not for samplers that draw.
        seed: of the directions, and of what a stochastic sampler draws.
        **cond: conditioning, as the sampler takes it.

    Returns:
        The certificate; ``print`` it, or take its numbers.

    Raises:
        ValueError: an unknown word, or ``by_step`` where there are no steps to follow.
        NotImplementedError: the network has an operator without forward mode.

    >>> from adjointdpm import Denoiser, Schedule, solvers
    >>> schedule = Schedule.vp_linear()
    >>> denoiser = Denoiser(lambda x, t: x.sin(), schedule)
    >>> sampler = Sampler(denoiser, solvers.build("ddim", schedule, num_inference_steps=5))
    >>> certificate = certify(sampler, torch.ones(1, 2).double(), torch.sum)
    >>> certificate.targets[0].difference_error < 1e-6
    True
    """
    if derivatives not in get_args(Derivatives):
        raise ValueError(f"derivatives must be central or forward, not {derivatives!r}")
    subject = Subject(sampler, noise, objective, seed, cond)
    if by_step:
        subject.check_has_steps()
    exact = subject.gradient(Exact(), subject.reference, keep=True)
    judged = subject.gradient(sampler.gradient, sampler.plan, keep=by_step)
    generator = torch.Generator().manual_seed(seed)
    targets = []
    for name, tensors in subject.targets.items():
        gradient, reference = judged.targets[name], exact.targets[name]
        computed, measured = [], []
        for _ in range(num_directions):
            direction = torch.randn(len(reference), generator=generator, dtype=reference.dtype)
            direction = (direction / direction.norm()).to(reference.device)
            computed.append(float(gradient @ direction))
            if derivatives == "forward":
                measured.append(subject.forward_derivative(name, direction))
            else:
                length = step * float(torch.cat([t.detach().flatten() for t in tensors]).norm())
                measured.append(subject.central_difference(tensors, direction, length))
        targets.append(
            TargetCertificate(
                name=name,
                norm=float(gradient.norm()),
                relative_error=float((gradient - reference).norm() / reference.norm()),
                cosine=float(torch.cosine_similarity(gradient, reference, dim=0)),
                computed=tuple(computed),
                measured=tuple(measured),
            )
        )
    return Certificate(
        method=repr(sampler.gradient),
        plan=repr(sampler.plan),
        targets=tuple(targets),
        forward_calls=judged.forward_calls,
        backward_calls=judged.backward_calls,
        seconds=judged.seconds,
        exact_seconds=exact.seconds,
        peak_memory=subject.peak_memory(),
        derivatives=derivatives,
        reconstruction_error=judged.notes.round_trip,
        by_step=subject.by_step(judged, exact) if by_step else (),
    )
