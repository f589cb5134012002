"""How good is this gradient? Measured, not promised.

A certificate compares a sampler's gradient with two things that do not share its code: `Exact`, and
central differences of whole sampling runs along random directions, which share no derivative at
all. Everything runs on copies in float64, where a difference of two runs still has eight digits.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .gradients import Exact, GradientMethod
from .sampler import Sampler

Objective = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TargetCertificate:
    """The gradient with respect to one thing: the noise, a conditioning tensor, or the weights.

    Args:
        name: of the target.
        norm: of the gradient.
        relative_error: distance to the exact gradient, over the norm of that.
        cosine: of the angle to the exact gradient.
        computed: the gradient's derivative along each random direction.
        measured: the central difference along the same directions.
    """

    name: str
    norm: float
    relative_error: float
    cosine: float
    computed: tuple[float, ...]
    measured: tuple[float, ...]

    @property
    def difference_error(self) -> float:
        """The distance of computed and measured derivatives, over the size of the measured."""
        computed, measured = torch.tensor(self.computed), torch.tensor(self.measured)
        return float((computed - measured).norm() / measured.norm())


@dataclass(frozen=True)
class Certificate:
    """What `certify` found.

    Args:
        method: the gradient method.
        plan: the sampler's plan.
        targets: one entry for everything that got a gradient.
        forward_calls: network calls of the sampling run.
        backward_calls: network calls of the reverse sweep.
        seconds: of one gradient, forward and backward, in float64.
        exact_seconds: the same for `Exact`.
        peak_memory: bytes, on a CUDA device; None elsewhere.
    """

    method: str
    plan: str
    targets: tuple[TargetCertificate, ...]
    forward_calls: int
    backward_calls: int
    seconds: float
    exact_seconds: float
    peak_memory: int | None

    def to_json(self) -> str:
        """Return the certificate as JSON."""
        return json.dumps(asdict(self), indent=2)

    def __str__(self) -> str:
        lines = [
            f"{self.method} on {self.plan}",
            f"{'target':24s} {'norm':>10s} {'rel. error':>11s} {'cosine':>9s} {'differences':>12s}",
        ]
        lines += [
            f"{t.name:24s} {t.norm:10.3g} {t.relative_error:11.1e} {t.cosine:9.6f} "
            f"{t.difference_error:12.1e}"
            for t in self.targets
        ]
        lines.append(
            f"network calls: {self.forward_calls} forward, {self.backward_calls} in the reverse "
            f"sweep; {self.seconds:.2f} s (Exact: {self.exact_seconds:.2f} s)"
        )
        return "\n".join(lines)


def certify(
    sampler: Sampler,
    noise: Tensor,
    objective: Objective,
    *,
    num_directions: int = 3,
    step: float = 1e-5,
    seed: int = 0,
    **cond: Any,
) -> Certificate:
    """Measure how good the sampler's gradient of an objective is.

    The targets are the noise, every tensor of the conditioning that requires grad, and the
    network's weights that require grad, taken together.

    Args:
        sampler: with the gradient method to be judged.
        noise: (batch, ...) where to look.
        objective: from samples to a number or one for each sample, which are summed. An
            ``nn.Module`` is run in float64; any other callable is given samples in the noise's own
            dtype, and the differences then have its digits.
        num_directions: random directions for the central differences.
        step: half the length of a difference, relative to the norm of the target.
        seed: of the directions, and of what a stochastic sampler draws.
        **cond: conditioning, as the sampler takes it.

    Returns:
        The certificate; ``print`` it, or take its numbers.

    >>> from adjointdpm import Denoiser, Schedule, solvers
    >>> schedule = Schedule.vp_linear()
    >>> denoiser = Denoiser(lambda x, t: x.sin(), schedule)
    >>> sampler = Sampler(denoiser, solvers.build("ddim", schedule, num_inference_steps=5))
    >>> certificate = certify(sampler, torch.ones(1, 2).double(), torch.sum)
    >>> certificate.targets[0].difference_error < 1e-6
    True
    """
    subject = _Subject(sampler, noise, objective, seed, cond)
    exact_gradients, exact_seconds, _ = subject.gradients(Exact())
    gradients, seconds, calls = subject.gradients(sampler.gradient)
    generator = torch.Generator().manual_seed(seed)
    targets = []
    for name, tensors in subject.targets.items():
        gradient, exact = gradients[name], exact_gradients[name]
        computed, measured = [], []
        for _ in range(num_directions):
            direction = torch.randn(len(exact), generator=generator, dtype=exact.dtype)
            direction = (direction / direction.norm()).to(exact.device)
            length = step * float(torch.cat([t.detach().flatten() for t in tensors]).norm())
            computed.append(float(gradient @ direction))
            measured.append(subject.central_difference(tensors, direction, length))
        targets.append(
            TargetCertificate(
                name=name,
                norm=float(gradient.norm()),
                relative_error=float((gradient - exact).norm() / exact.norm()),
                cosine=float(torch.cosine_similarity(gradient, exact, dim=0)),
                computed=tuple(computed),
                measured=tuple(measured),
            )
        )
    device = noise.device
    return Certificate(
        method=repr(sampler.gradient),
        plan=repr(sampler.plan),
        targets=tuple(targets),
        forward_calls=calls[0],
        backward_calls=calls[1],
        seconds=seconds,
        exact_seconds=exact_seconds,
        peak_memory=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )


class _Subject:
    """A sampler and an objective, copied to float64, as functions of the targets."""

    def __init__(
        self, sampler: Sampler, noise: Tensor, objective: Objective, seed: int, cond: dict[str, Any]
    ) -> None:
        self._sampler = copy.deepcopy(sampler).double()
        self._dtype = noise.dtype
        self._objective = objective
        if isinstance(objective, nn.Module):
            self._objective, self._dtype = copy.deepcopy(objective).double(), torch.float64
        self._seed, self._device = seed, noise.device
        self._noise = _leaf(noise).requires_grad_()
        self._cond = pytree.tree_map_only(Tensor, _leaf, cond)
        self.targets: dict[str, list[Tensor]] = {"noise": [self._noise]}
        for path, leaf in pytree.tree_flatten_with_path(self._cond)[0]:
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                self.targets[pytree.keystr(path).strip("[]'")] = [leaf]
        weights: list[Tensor] = [p for p in self._sampler.parameters() if p.requires_grad]
        if weights:
            self.targets["weights"] = weights

    def _value(self) -> Tensor:
        generator = torch.Generator(self._device).manual_seed(self._seed)
        sample = self._sampler(self._noise, generator=generator, **self._cond)
        return self._objective(sample.to(self._dtype)).sum()

    def gradients(self, method: GradientMethod) -> tuple[dict[str, Tensor], float, tuple[int, int]]:
        """Return the flat gradient of each target, the seconds and the network calls."""
        self._sampler.gradient = method
        tensors = [tensor for group in self.targets.values() for tensor in group]
        with self._counted() as calls:
            start = time.perf_counter()
            value = self._value()
            forward = len(calls)
            found = torch.autograd.grad(value, tensors, allow_unused=True)
            seconds = time.perf_counter() - start
        pairs = zip(found, tensors, strict=True)
        flat = iter([(torch.zeros_like(t) if g is None else g).flatten() for g, t in pairs])
        grouped = {
            name: torch.cat([next(flat) for _ in group]).double()
            for name, group in self.targets.items()
        }
        return grouped, seconds, (forward, len(calls) - forward)

    @contextmanager
    def _counted(self) -> Iterator[list[None]]:
        calls: list[None] = []
        handle = self._sampler.denoiser.register_forward_pre_hook(lambda *_: calls.append(None))
        try:
            yield calls
        finally:
            handle.remove()

    @torch.no_grad()
    def central_difference(self, tensors: list[Tensor], direction: Tensor, length: float) -> float:
        """Return the derivative along a direction, from two sampling runs."""
        parts = direction.split([tensor.numel() for tensor in tensors])
        values = []
        for sign in (1.0, -1.0):
            originals = [tensor.clone() for tensor in tensors]
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.add_(part.view_as(tensor), alpha=sign * length)
            values.append(self._value())
            for tensor, original in zip(tensors, originals, strict=True):
                tensor.copy_(original)
        return float((values[0] - values[1]) / (2 * length))


def _leaf(tensor: Tensor) -> Tensor:
    """Return a float64 copy of a floating-point tensor that requires grad if the original does."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.detach().double().clone().requires_grad_(tensor.requires_grad)
