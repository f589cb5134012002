"""What a certificate says, as numbers and as a table for people."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True)
class TargetCertificate:
    """The gradient with respect to one thing: the noise, a conditioning tensor, or the weights.

    Args:
        name: of the target.
        norm: of the gradient.
        relative_error: distance to the exact gradient, over the norm of that.
        cosine: of the angle to the exact gradient.
        computed: the gradient's derivative along each random direction.
        measured: the same derivatives without the gradient, by differences or forward mode.
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
        computed = torch.tensor(self.computed, dtype=torch.float64)
        measured = torch.tensor(self.measured, dtype=torch.float64)
        return float((computed - measured).norm() / measured.norm())


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
        exact_seconds: the same for `Exact`.
        peak_memory: the most bytes that one gradient made and held at once, objective included, in
            float64; on a CUDA device as its allocator counts, elsewhere the sum of tensors.
        derivatives: how the derivatives along random directions were measured.
        reconstruction_error: distance of the state where the reverse sweep ended to the one where
            the sampler started, relative; None where the states are stored.
        by_step: the reverse sweep from the image to the noise, where it was asked for.
    """

    method: str
    plan: str
    targets: tuple[TargetCertificate, ...]
    forward_calls: int
    backward_calls: int
    seconds: float
    exact_seconds: float
    peak_memory: int
    derivatives: str = "central"
    reconstruction_error: float | None = None
    by_step: tuple[StepCertificate, ...] = ()

    def to_json(self) -> str:
        """Return the certificate as JSON."""
        return json.dumps(asdict(self), indent=2)

    def __str__(self) -> str:
        measured = "differences" if self.derivatives == "central" else "forward"
        lines = [
            f"{self.method} on {self.plan}",
            f"{'target':24s} {'norm':>10s} {'rel. error':>11s} {'cosine':>9s} {measured:>12s}",
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
        lines.append(f"peak memory: {self.peak_memory / 2**20:.1f} MiB")
        if self.reconstruction_error is not None:
            lines.append(
                f"the reverse sweep misses the start of the run by {self.reconstruction_error:.1e}"
            )
        if self.by_step:
            lines += ["", *_step_lines(self.by_step)]
        return "\n".join(lines)


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
