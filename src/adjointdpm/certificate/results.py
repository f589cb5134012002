"""What a certificate says, as numbers and as a table for people."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

EXACT = 1e-6
"""The relative error below which a gradient is called exact: what rounding leaves in float64, also
where a network computes a part, such as a softmax, in float32."""

Word = Literal["exact", "good", "poor", "disputed"]


@dataclass(frozen=True)
class TargetCertificate:
    """The gradient with respect to one thing: the noise, a conditioning tensor, or the weights.

    Args:
        name: of the target.
        norm: of the gradient.
        relative_error: distance to the gradient by plain autograd, over the norm of that.
        cosine: of the angle to the gradient by plain autograd.
        computed: the gradient's derivative along each random direction.
        expected: likewise by the gradient of plain autograd.
        measured: the same derivatives without any gradient, by forward mode or differences.
        uncertainty: how far differences of another length are from the measured ones, relative;
            0 for forward mode.
    """

    name: str
    norm: float
    relative_error: float
    cosine: float
    computed: tuple[float, ...]
    expected: tuple[float, ...]
    measured: tuple[float, ...]
    uncertainty: float = 0.0

    @property
    def difference_error(self) -> float:
        """The distance of computed and measured derivatives, over the size of the measured."""
        return relative_distance(self.computed, self.measured)

    @property
    def autograd_error(self) -> float:
        """The distance for plain autograd, whatever the method misses along these directions."""
        return relative_distance(self.expected, self.measured)

    def word(self, max_error: float) -> Word:
        """Return what is to be thought of the gradient, if errors up to ``max_error`` are good."""
        if not self.relative_error <= max_error:
            return "poor"
        if not self.autograd_error <= max(max_error, 3 * self.uncertainty):
            return "disputed"
        return "exact" if self.relative_error <= EXACT else "good"


def relative_distance(
    values: Tensor | Sequence[float], reference: Tensor | Sequence[float]
) -> float:
    """Return the distance of two vectors over the norm of the second; 0 if both are zero."""
    value, other = (torch.as_tensor(v, dtype=torch.float64) for v in (values, reference))
    distance, norm = float((value - other).norm()), float(other.norm())
    return distance / norm if norm else (math.inf if distance else 0.0)


@dataclass(frozen=True)
class StepCertificate:
    """The adjoint of the state at one step of the reverse sweep.

    Args:
        timestep: where it is.
        error: distance to the exact adjoint of the state there, over the norm of that.
        increment: what the step before it, on the side of the image, added to ``error``.
        state_error: distance of the state that the sweep used to the one that the sampler passed,
            over the norm of that; None where the sweep stores its states.
    """

    timestep: float
    error: float
    increment: float
    state_error: float | None = None


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
        reference: the method that the gradient was compared with: plain autograd.
        reference_seconds: of one gradient of that.
        peak_memory: the most bytes that one gradient made and held at once, objective included, in
            float64; on a CUDA device as its allocator counts, elsewhere the sum of tensors.
        derivatives: how the derivatives along random directions were measured.
        reconstruction_error: distance of the state where the reverse sweep ended to the one where
            the sampler started, relative; None where the states are stored.
        by_step: the reverse sweep from the image to the noise, where it was asked for.
        max_error: the largest relative error of a gradient that is called good.
    """

    method: str
    plan: str
    targets: tuple[TargetCertificate, ...]
    forward_calls: int
    backward_calls: int
    seconds: float
    reference: str
    reference_seconds: float
    peak_memory: int
    derivatives: str = "forward"
    reconstruction_error: float | None = None
    by_step: tuple[StepCertificate, ...] = ()
    max_error: float = 0.1

    @property
    def passed(self) -> bool:
        """Whether the gradient of every target is exact or good."""
        return all(t.word(self.max_error) in ("exact", "good") for t in self.targets)

    @property
    def verdict(self) -> str:
        """What the numbers come to, in a sentence or two."""
        words = {t.name: t.word(self.max_error) for t in self.targets}
        worst = max(self.targets, key=lambda t: t.relative_error)
        if "poor" in words.values():
            return (
                f"poor: the gradient for {worst.name} is off by {worst.relative_error:.2g} of its "
                f"norm (cosine {worst.cosine:.3f}); more than {self.max_error:g} is not called good"
            )
        if "disputed" in words.values():
            names = ", ".join(name for name, word in words.items() if word == "disputed")
            return (
                f"disputed: the method agrees with autograd, but for {names} autograd itself does "
                "not agree with what was measured. Something in the network, the objective or in "
                "hooks on weights has another gradient than derivative (detach, a straight-through "
                "estimate, a kink)"
            )
        if all(word == "exact" for word in words.values()):
            if not any(target.norm for target in self.targets):
                return (
                    "exact, and zero: the objective does not change with any target here, so there "
                    "is nothing to follow, and little is shown of the method"
                )
            return "exact: the gradient is that of plain autograd, to rounding"
        return (
            f"good: the gradient is off by at most {worst.relative_error:.2g} of its norm "
            f"({worst.name}; cosine {worst.cosine:.4f})"
        )

    def to_json(self) -> str:
        """Return the certificate as JSON."""
        words = {t.name: t.word(self.max_error) for t in self.targets}
        summary = {"passed": self.passed, "verdict": self.verdict, "words": words}
        return json.dumps({**asdict(self), **summary}, indent=2)

    def __str__(self) -> str:
        width = max(len(t.name) for t in self.targets)
        lines = [
            f"{self.method} on {self.plan}",
            f"{'target':{width}s} {'norm':>9s} {'error':>8s} {'cosine':>9s} {self.derivatives:>8s}",
        ]
        lines += [
            f"{t.name:{width}s} {t.norm:9.3g} {t.relative_error:8.1e} {t.cosine:9.6f} "
            f"{t.difference_error:8.1e}  {t.word(self.max_error)}"
            for t in self.targets
        ]
        lines += [f"  {line}" for line in self._legend()]
        lines.append(
            f"network calls: {self.forward_calls} forward, {self.backward_calls} in the reverse "
            f"sweep; {self.seconds:.2f} s ({self.reference}: {self.reference_seconds:.2f} s)"
        )
        lines.append(f"peak memory: {self.peak_memory / 2**20:.1f} MiB")
        if self.reconstruction_error is not None:
            lines.append(
                f"the reverse sweep misses the start of the run by {self.reconstruction_error:.1e}"
            )
        if self.by_step:
            lines += ["", *_step_lines(self.by_step), ""]
        return "\n".join([*lines, f"verdict: {self.verdict}"])

    def _legend(self) -> list[str]:
        """Return what the columns mean."""
        count = len(self.targets[0].measured)
        how = {
            "forward": "forward-mode differentiation",
            "central": "central differences of whole runs",
        }[self.derivatives]
        lines = [
            f"error, cosine: against the gradient by plain autograd ({self.reference}), in float64",
            f"{self.derivatives}: derivatives along {count} random directions, by the gradient and "
            f"by {how}, their relative distance",
        ]
        uncertainty = max(t.uncertainty for t in self.targets)
        if self.derivatives == "central":
            lines.append(
                f"  (known to {uncertainty:.1e}, as differences of twice the length tell: kinks, "
                "and parts in float32, let them know no more)"
            )
        return lines


def _step_lines(steps: tuple[StepCertificate, ...]) -> list[str]:
    """Return a table of steps, with a bar for what each adds to the error."""
    largest = max(*(step.increment for step in steps), 1e-300)
    resolved = any(step.state_error is not None for step in steps)
    lines = [f"{'timestep':>10s} {'adjoint off by':>15s} {'added':>9s}"]
    lines[0] += f" {'state off by':>13s}" if resolved else ""
    for step in steps:
        state = "" if step.state_error is None else f" {step.state_error:13.1e}"
        bar = "#" * round(20 * max(step.increment, 0.0) / largest)
        line = f"{step.timestep:10.4g} {step.error:15.1e} {step.increment:9.1e}{state} {bar}"
        lines.append(line.rstrip())
    return lines
