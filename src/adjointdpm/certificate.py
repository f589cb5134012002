"""How good is this gradient? Measured, not promised.

A certificate compares a sampler's gradient with two things that do not share its code: `Exact`, and
central differences of whole sampling runs along random directions, which share no derivative at
all. Everything runs on copies in float64, where a difference of two runs still has eight digits.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from .gradients import (
    Backprop,
    CoarseAdjoint,
    ContinuousAdjoint,
    Exact,
    GradientMethod,
    Reversible,
)
from .gradients.live_memory import peak_bytes
from .gradients.trajectory import Trajectory, solution_points
from .plan import Plan
from .sampler import Sampler
from .solvers.form import Point
from .stepwise import StepAdjoint, Watch, adjoints_of_plan, relative_errors, watched

Objective = Callable[[Tensor], Tensor]
Derivatives = Literal["central", "forward"]


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
            arises. Not for `Backprop`, which has no sweep of its own, nor for samplers that draw.
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
    subject = _Subject(sampler, noise, objective, seed, cond)
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
        reconstruction_error=subject.reconstruction_error(judged, exact),
        by_step=subject.by_step(judged, exact) if by_step else (),
    )


@dataclass(frozen=True)
class _Gradient:
    """A gradient, and what was seen while it was taken."""

    targets: dict[str, Tensor]
    seconds: float
    forward_calls: int
    backward_calls: int
    sample: Tensor
    adjoint: Tensor
    watch: Watch
    steps: list[tuple[Point, Tensor, Tensor]]
    products: list[Tensor]
    round_trips: list[float]


class _Subject:
    """A sampler and an objective, copied to float64, as functions of the targets."""

    def __init__(
        self, sampler: Sampler, noise: Tensor, objective: Objective, seed: int, cond: dict[str, Any]
    ) -> None:
        self._sampler = copy.deepcopy(sampler).double()
        self._method, self._plan = sampler.gradient, sampler.plan
        self.reference = self._plan
        """The plan whose exact gradient is the measure."""
        if isinstance(self._method, Reversible):
            self.reference = self._method.plan(self._plan, sampler.denoiser.schedule)
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

    def _sample(self) -> Tensor:
        generator = torch.Generator(self._device).manual_seed(self._seed)
        return self._sampler(self._noise, generator=generator, **self._cond)

    def _value(self, sample: Tensor) -> Tensor:
        return self._objective(sample.to(self._dtype)).sum()

    def gradient(self, method: GradientMethod, plan: Plan, *, keep: bool) -> _Gradient:
        """Return the flat gradient of each target by a method, and what was seen."""
        steps: list[tuple[Point, Tensor, Tensor]] = []
        products: list[Tensor] = []
        round_trips: list[float] = []
        if isinstance(method, ContinuousAdjoint):
            method = replace(method, on_step=lambda *step: steps.append(step))
        if isinstance(method, CoarseAdjoint) and keep:
            method = replace(method, on_product=products.append)
        if isinstance(method, Reversible):
            # How far the walk back misses its start is for the certificate to tell.
            method = replace(method, on_round_trip=round_trips.append, tolerance=math.inf)
        self._sampler.gradient, self._sampler.plan = method, plan
        tensors = [tensor for group in self.targets.values() for tensor in group]
        with watched(self._sampler.denoiser, keep=keep) as watch:
            start = time.perf_counter()
            sample = self._sample()
            forward = watch.num_calls
            adjoint, *found = torch.autograd.grad(
                self._value(sample), [sample, *tensors], allow_unused=True
            )
            self._wait()
            seconds = time.perf_counter() - start
        pairs = zip(found, tensors, strict=True)
        flat = iter([(torch.zeros_like(t) if g is None else g).flatten() for g, t in pairs])
        grouped = {
            name: torch.cat([next(flat) for _ in group]).double()
            for name, group in self.targets.items()
        }
        backward = watch.num_calls - forward
        return _Gradient(
            grouped, seconds, forward, backward, sample.detach(), adjoint, watch, steps,
            products, round_trips,
        )  # fmt: skip

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def peak_memory(self) -> int:
        """Return the most bytes that the judged gradient makes and holds at once."""
        self._sampler.gradient, self._sampler.plan = self._method, self._plan
        tensors = [tensor for group in self.targets.values() for tensor in group]

        def run() -> None:
            torch.autograd.grad(self._value(self._sample()), tensors, allow_unused=True)

        if self._device.type != "cuda":
            return peak_bytes(run)
        self._wait()
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        run()
        self._wait()
        return torch.cuda.max_memory_allocated(self._device) - before

    def reconstruction_error(self, judged: _Gradient, exact: _Gradient) -> float | None:
        """Return how far the reverse sweep ended from where the run had started."""
        if judged.round_trips:
            return judged.round_trips[-1]
        if not self._resolves:
            return None
        start = exact.watch.calls[0][0]
        return float((judged.steps[-1][1] - start).norm() / start.norm())

    @property
    def _resolves(self) -> bool:
        method = self._method
        return isinstance(method, ContinuousAdjoint) and method.trajectory == "resolved"

    def check_has_steps(self) -> None:
        """Raise unless the adjoint of the state can be followed along the trajectory."""
        if isinstance(self._method, Backprop):
            raise ValueError("by_step needs a method with a reverse sweep; Backprop has none")
        if self._plan.num_draws:
            raise ValueError(
                f"by_step needs a deterministic sampler, but {self._plan.name} draws noise"
            )

    def by_step(self, judged: _Gradient, exact: _Gradient) -> tuple[StepCertificate, ...]:
        """Compare the adjoints of the state on the way from the image to the noise."""
        schedule, method = self._sampler.denoiser.schedule, self._method
        references = adjoints_of_plan(self.reference, schedule, exact.watch.products, exact.adjoint)
        if isinstance(method, ContinuousAdjoint):
            found = [
                StepAdjoint(p.t, math.atan2(p.sigma, p.alpha), a * math.hypot(p.alpha, p.sigma))
                for p, _, a in judged.steps
                if p.sigma > 0
            ]
        else:
            plan, products = self.reference, judged.watch.products
            if isinstance(method, CoarseAdjoint):
                plan, products = method.plan(self._plan, schedule), judged.products
            found = adjoints_of_plan(plan, schedule, products, judged.adjoint)
        errors = relative_errors(found, references)
        states = self._state_errors(judged, exact, len(errors))
        return tuple(
            StepCertificate(step.timestep, error, error - previous, state)
            for step, error, previous, state in zip(
                found, errors, [0.0, *errors[:-1]], states, strict=True
            )
        )

    def _state_errors(
        self, judged: _Gradient, exact: _Gradient, count: int
    ) -> Sequence[float | None]:
        """Return how far the states of a sweep are from those that the sampler passed."""
        if not self._resolves:
            return [None] * count
        denoiser = self._sampler.denoiser
        calls = [exact.watch.calls[k] for k in self._plan.step_starts or ()]
        trajectory = Trajectory(
            solution_points(self._plan, denoiser.schedule),
            calls,
            exact.sample,
            denoiser.prediction_type,
        )
        pairs = [(x, trajectory(point)) for point, x, _ in judged.steps if point.sigma > 0]
        return [float((x - expected).norm() / expected.norm()) for x, expected in pairs]

    def forward_derivative(self, name: str, direction: Tensor) -> float:
        """Return the derivative along a direction, by forward mode through the whole run."""
        self._sampler.gradient, self._sampler.plan = Backprop(), self.reference
        tensors = self.targets[name]
        parts = direction.split([tensor.numel() for tensor in tensors])
        # The fused kernels of attention have no forward mode.
        with forward_ad.dual_level(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            duals = {
                id(tensor): forward_ad.make_dual(tensor.detach(), part.view_as(tensor))
                for tensor, part in zip(tensors, parts, strict=True)
            }
            parameters = {
                key: duals[id(parameter)]
                for key, parameter in self._sampler.named_parameters()
                if id(parameter) in duals
            }
            noise = duals.get(id(self._noise), self._noise)
            cond = pytree.tree_map_only(Tensor, lambda leaf: duals.get(id(leaf), leaf), self._cond)
            generator = torch.Generator(self._device).manual_seed(self._seed)
            sample = functional_call(
                self._sampler, parameters, (noise,), {"generator": generator, **cond}
            )
            tangent = forward_ad.unpack_dual(self._value(sample)).tangent
            return 0.0 if tangent is None else float(tangent)

    @torch.no_grad()
    def central_difference(self, tensors: list[Tensor], direction: Tensor, length: float) -> float:
        """Return the derivative along a direction, from two sampling runs."""
        self._sampler.gradient, self._sampler.plan = Backprop(), self.reference
        parts = direction.split([tensor.numel() for tensor in tensors])
        values = []
        for sign in (1.0, -1.0):
            originals = [tensor.clone() for tensor in tensors]
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.add_(part.view_as(tensor), alpha=sign * length)
            values.append(self._value(self._sample()))
            for tensor, original in zip(tensors, originals, strict=True):
                tensor.copy_(original)
        return float((values[0] - values[1]) / (2 * length))


def _leaf(tensor: Tensor) -> Tensor:
    """Return a float64 copy of a floating-point tensor that requires grad if the original does."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.detach().double().clone().requires_grad_(tensor.requires_grad)
