"""A sampler and an objective under examination: copies in float64, as functions of the targets."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from ..gradients import Backprop, GradientMethod, Trajectory, solution_points
from ..memory import peak_on
from ..plan import Plan
from ..sampler import Sampler
from .results import StepCertificate
from .stepwise import Notes, StepAdjoint, Watch, adjoints_of_plan, relative_errors, watched

Objective = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Gradient:
    """A gradient, and what was seen while it was taken."""

    targets: dict[str, Tensor]
    seconds: float
    forward_calls: int
    backward_calls: int
    sample: Tensor
    adjoint: Tensor
    watch: Watch
    notes: Notes


class Subject:
    """A sampler and an objective, copied to float64, as functions of the targets."""

    def __init__(
        self, sampler: Sampler, noise: Tensor, objective: Objective, seed: int, cond: dict[str, Any]
    ) -> None:
        self._sampler = copy.deepcopy(sampler).double()
        _copy_hooks(sampler, self._sampler)
        self._method, self._plan = sampler.gradient, sampler.plan
        self.reference = self._method.reference_plan(self._plan, sampler.denoiser.schedule)
        """The plan whose exact gradient is the measure."""
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
                self.targets[".".join(str(getattr(key, "key", key)) for key in path)] = [leaf]
        weights: list[Tensor] = [p for p in self._sampler.parameters() if p.requires_grad]
        if weights:
            self.targets["weights"] = weights

    def _sample(self) -> Tensor:
        generator = torch.Generator(self._device).manual_seed(self._seed)
        return self._sampler(self._noise, generator=generator, **self._cond)

    def _value(self, sample: Tensor) -> Tensor:
        value = self._objective(sample.to(self._dtype))
        if not isinstance(value, Tensor) or value.numel() not in (1, len(sample)):
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise ValueError(
                f"the objective must return a tensor, of one number or of one for each of the "
                f"{len(sample)} samples, not {found}"
            )
        if sample.requires_grad and torch.is_grad_enabled() and not value.requires_grad:
            raise ValueError(
                "the objective has no gradient: what it returns does not depend on the samples, or "
                "goes through detach, torch.no_grad, .item(), numpy or a comparison"
            )
        return value.sum()

    def gradient(self, method: GradientMethod, plan: Plan, *, keep: bool) -> Gradient:
        """Return the flat gradient of each target by a method, and what was seen."""
        # How far a walk back misses its start is for the certificate to tell.
        self._sampler.gradient, self._sampler.plan = method.unguarded(), plan
        self._sampler.observer = notes = Notes(keep=keep)
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
        return Gradient(grouped, seconds, forward, backward, sample.detach(), adjoint, watch, notes)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def peak_memory(self) -> int:
        """Return the most bytes that the judged gradient makes and holds at once."""
        self._sampler.gradient, self._sampler.plan = self._method.unguarded(), self._plan
        self._sampler.observer = None
        tensors = [tensor for group in self.targets.values() for tensor in group]

        def run() -> None:
            torch.autograd.grad(self._value(self._sample()), tensors, allow_unused=True)

        return peak_on(self._device, run)

    def check_has_steps(self) -> None:
        """Raise unless the adjoint of the state can be followed along the trajectory."""
        if self._plan.num_draws:
            raise ValueError(
                f"by_step needs a deterministic sampler, but {self._plan.name} draws noise"
            )

    def norm(self, name: str) -> float:
        """Return the norm of a target; 1 for one that is zero."""
        return float(torch.cat([t.detach().flatten() for t in self.targets[name]]).norm()) or 1.0

    def by_step(self, judged: Gradient, exact: Gradient) -> tuple[StepCertificate, ...]:
        """Compare the adjoints of the state on the way from the image to the noise."""
        schedule, notes = self._sampler.denoiser.schedule, judged.notes
        references = adjoints_of_plan(self.reference, schedule, exact.notes.products, exact.adjoint)
        if notes.steps:
            found = [
                StepAdjoint(p.t, math.atan2(p.sigma, p.alpha), a * math.hypot(p.alpha, p.sigma))
                for p, _, a in notes.steps
                if p.sigma > 0
            ]
        else:
            plan = self._method.swept_plan(self._plan, schedule)
            found = adjoints_of_plan(plan, schedule, notes.products, judged.adjoint)
        errors = relative_errors(found, references)
        states = self._state_errors(judged, exact, len(errors))
        return tuple(
            StepCertificate(step.timestep, error, error - previous, state)
            for step, error, previous, state in zip(
                found, errors, [0.0, *errors[:-1]], states, strict=True
            )
        )

    def _state_errors(
        self, judged: Gradient, exact: Gradient, count: int
    ) -> Sequence[float | None]:
        """Return how far the states of a sweep are from those that the sampler passed."""
        notes = judged.notes
        if not notes.steps or notes.round_trip is None:
            return [None] * count
        denoiser = self._sampler.denoiser
        calls = [exact.watch.calls[k] for k in self._plan.step_starts or ()]
        trajectory = Trajectory(
            solution_points(self._plan, denoiser.schedule),
            calls,
            exact.sample,
            denoiser.prediction_type,
        )
        pairs = [(x, trajectory(point)) for point, x, _ in notes.steps if point.sigma > 0]
        return [float((x - expected).norm() / expected.norm()) for x, expected in pairs]

    def has_forward_mode(self) -> bool:
        """Return whether the whole run can be differentiated in forward mode."""
        (noise,) = self.targets["noise"]
        try:
            self.forward_derivative("noise", torch.zeros(noise.numel()).to(noise))
        except (NotImplementedError, RuntimeError) as error:
            if not any(word in str(error) for word in ("forward AD", "forward mode", "jvp")):
                raise
            return False
        return True

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
    def central_difference(self, name: str, direction: Tensor, length: float) -> float:
        """Return the derivative along a direction, from two sampling runs."""
        tensors = self.targets[name]
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


def _copy_hooks(original: nn.Module, copied: nn.Module) -> None:
    """Let what hooks do to the gradients of weights be done to those of their copies."""
    for parameter, twin in zip(original.parameters(), copied.parameters(), strict=True):
        for hook in (parameter._backward_hooks or {}).values():
            twin.register_hook(hook)


def _leaf(tensor: Tensor) -> Tensor:
    """Return a float64 copy of a floating-point tensor that requires grad if the original does."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.detach().double().clone().requires_grad_(tensor.requires_grad)
