"""What every gradient method is given, what it must do, and what it says about itself."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..plan import Draws, Plan
from ..recompute import judge_together
from ..schedule import Schedule
from ..sharded import local
from ..solvers import Reversal
from .collect import Collect
from .observer import Observer


@dataclass(frozen=True)
class Run:
    """One use of a sampler.

    Args:
        denoiser: the network.
        plan: the table of the sampler.
        noise: (batch, ...) standard-normal latent, float32 or float64.
        draws: the noises drawn on the way.
        cond: conditioning, a nest of tensors.
        check_finite: whether to look for values that are not finite, and name the step.
        adjoint_scale: ``auto`` to scale the adjoint where it passes a float16 network.
        observer: is told what the reverse sweep finds.
        collect: what to make of every network call, see `GradientMethod.collect`.
    """

    denoiser: Denoiser
    plan: Plan
    noise: Tensor
    draws: Draws
    cond: dict[str, Any]
    check_finite: bool = True
    adjoint_scale: Literal["auto"] | None = "auto"
    observer: Observer | None = None
    collect: Collect | None = None


@dataclass(frozen=True)
class Cut:
    """Where the gradient of a truncated method ends.

    Args:
        last: how many of the last network calls (or steps) are differentiated.
        detach_latent: whether the latent that enters them is a constant too, and not the outputs
            of the earlier calls alone.
    """

    last: int
    detach_latent: bool


class GradientMethod(ABC):
    """How the gradient through a sampling run is taken; a setting of `Sampler`.

    `sample` is all that a method must do. The rest is what it says about itself, for those who use
    it without knowing which it is: each has a default that holds for a method that runs the
    network again and has an error of its own.
    """

    @abstractmethod
    def sample(self, run: Run) -> Tensor:
        """Return the sample, attached to the autograd graph by this method."""

    def collect(self, run: Run) -> tuple[Tensor, Any]:
        """Return the sample, and what ``run.collect`` makes of the network calls, stacked.

        Raises:
            ValueError: the gradient of what calls give beside their output is not to be had.
        """
        raise ValueError(
            f"{type(self).__name__} takes the gradient of the sample only, and not of what is "
            "collected from the network calls; use Exact(), Truncated() or Backprop()"
        )

    def on(self, device: torch.device) -> GradientMethod:
        """Return the method without what makes no difference on a device."""
        return self

    def unguarded(self) -> Self:
        """Return the method without checks of its own accuracy, for those who measure that."""
        return self

    @property
    def graph_budget(self) -> float:
        """Bytes of graphs that may be kept from sampling to ``backward``; infinity for all."""
        return 0.0

    @property
    def keeps_graphs(self) -> bool:
        """Whether graphs of network calls are kept from sampling to ``backward``."""
        return self.graph_budget > 0

    @property
    def differentiates_plan(self) -> bool:
        """Whether coefficients and times of a plan that are tensors get their gradients."""
        return False

    @property
    def needs_plan(self) -> bool:
        """Whether the table of the sampler is needed, and not the network calls alone."""
        return True

    @property
    def cut(self) -> Cut | None:
        """Where the gradient ends before it comes to the noise, if it does."""
        return None

    def reference_plan(self, plan: Plan, schedule: Schedule) -> Plan:
        """Return the table of what runs, whose exact gradient this one is to be compared with.

        Args:
            plan: of the sampler.
            schedule: the denoiser's.
        """
        return plan

    def reversal(self, plan: Plan, schedule: Schedule) -> Reversal | None:
        """Return the reversible sampler that runs in place of the plan, if one does.

        Args:
            plan: of the sampler.
            schedule: the denoiser's.
        """
        return None

    def swept_plan(self, plan: Plan, schedule: Schedule) -> Plan:
        """Return the table whose calls the observer is told the products of.

        Args:
            plan: of the sampler.
            schedule: the denoiser's.
        """
        return self.reference_plan(plan, schedule)


@dataclass(frozen=True)
class FiniteArrival:
    """Looks whether the adjoints that arrive at samples, and at what was collected, are finite."""

    adjoints: Sequence[Tensor | None]

    def numbers(self) -> Tensor | None:
        """Return their sums, on the device."""
        found = [each.detach() for each in self.adjoints if each is not None and not each.is_meta]
        return torch.stack([each.sum().to(found[0]) for each in found]) if found else None

    def judge(self, found: Sequence[float]) -> None:
        """Raise FloatingPointError if one is not finite."""
        if not all(map(math.isfinite, found)):
            raise FloatingPointError(
                "the gradient that arrives at the samples is not finite, so it was not before it "
                "went through the sampler: look at the loss, and at the decoder. The loss may be "
                "NaN, or have no finite derivative there, as sqrt has none at 0"
            )


@dataclass(frozen=True)
class FiniteGradients:
    """Looks whether gradients of conditioning and weights are finite.

    Args:
        gradients: what was found; None for nothing.
        name: returns what the gradient of a number belongs to.
    """

    gradients: Sequence[Tensor | None]
    name: Callable[[int], str]

    def _found(self) -> list[tuple[int, Tensor]]:
        return [(i, g) for i, g in enumerate(self.gradients) if g is not None and not g.is_meta]

    def numbers(self) -> Tensor | None:
        """Return the norms, on the device."""
        tensors = [local(g) for _, g in self._found()]
        if not tensors:
            return None
        return torch.stack([n.to(tensors[0].device).float() for n in torch._foreach_norm(tensors)])

    def judge(self, found: Sequence[float]) -> None:
        """Raise FloatingPointError if a norm is not finite."""
        for (i, _), norm in zip(self._found(), found, strict=True):
            if not math.isfinite(norm):
                raise FloatingPointError(
                    f"the gradient of {self.name(i)} is not finite, though adjoints of latents "
                    "are. A half-precision overflow is the usual cause (run the network in "
                    "bfloat16 or float32)"
                )


@dataclass
class FiniteCheck:
    """Collects one number a step on the device, and looks at them once, at the end of a sweep.

    A sum of a latent is finite if and only if its entries are (short of overflow), and reading it
    at each step would make a GPU wait N times.
    """

    what: str
    timesteps: Any
    enabled: bool = True
    _steps: list[int] = field(default_factory=list)
    _sums: Tensor | None = None

    def record(self, step: int, latent: Tensor) -> None:
        """Take note of the latent of network call ``step``."""
        if not self.enabled:
            return
        if self._sums is None:
            # One tensor for all: many small ones would fragment the latents' allocator.
            self._sums = torch.zeros(len(self.timesteps), dtype=latent.dtype, device=latent.device)
        self._steps.append(step)
        self._sums[step] = latent.detach().sum()

    def numbers(self) -> Tensor | None:
        """Return the sums on the device; None where there are none to look at."""
        return None if self._sums is None or self._sums.is_meta else self._sums

    def judge(self, found: Sequence[float]) -> None:
        """Raise FloatingPointError that names the first call in question.

        Args:
            found: the values of `numbers`.
        """
        for step in self._steps:
            if not math.isfinite(found[step]):
                raise FloatingPointError(
                    f"{self.what} of network call {step} (timestep {self.timesteps[step]:g}) is "
                    "not finite. Look at the network's input there: a half-precision overflow is "
                    "the usual cause (run the network in bfloat16 or float32)"
                )

    def raise_if_not_finite(self) -> None:
        """Look at the sums now."""
        judge_together([self])
