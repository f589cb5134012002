"""What every gradient method is given, and what it must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..execution import Draws
from ..plan import Plan


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
    """

    denoiser: Denoiser
    plan: Plan
    noise: Tensor
    draws: Draws
    cond: dict[str, Any]
    check_finite: bool = True


class GradientMethod(ABC):
    """How the gradient through a sampling run is taken; a setting of `Sampler`."""

    @abstractmethod
    def sample(self, run: Run) -> Tensor:
        """Return the sample, attached to the autograd graph by this method."""


@dataclass
class FiniteCheck:
    """Collects one number a step on the device, and looks at them once, at the end of a sweep.

    A sum of a latent is finite if and only if its entries are (short of overflow), and reading it
    at each step would make a GPU wait N times.
    """

    what: str
    timesteps: Any
    enabled: bool = True
    _sums: list[tuple[int, Tensor]] = field(default_factory=list)

    def record(self, step: int, latent: Tensor) -> None:
        """Take note of the latent of network call ``step``."""
        if self.enabled:
            self._sums.append((step, latent.detach().sum()))

    def raise_if_not_finite(self) -> None:
        """Raise FloatingPointError that names the first call in question."""
        if not self._sums:
            return
        finite = torch.isfinite(torch.stack([total for _, total in self._sums])).tolist()
        for (step, _), good in zip(self._sums, finite, strict=True):
            if not good:
                raise FloatingPointError(
                    f"{self.what} of network call {step} (timestep {self.timesteps[step]:g}) is "
                    "not finite. Look at the network's input there: a half-precision overflow is "
                    "the usual cause (run the network in bfloat16 or float32)"
                )
