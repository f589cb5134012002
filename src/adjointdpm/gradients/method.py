"""What every gradient method is given, and what it must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..plan import Draws, Plan


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
    """

    denoiser: Denoiser
    plan: Plan
    noise: Tensor
    draws: Draws
    cond: dict[str, Any]
    check_finite: bool = True
    adjoint_scale: Literal["auto"] | None = "auto"


class GradientMethod(ABC):
    """How the gradient through a sampling run is taken; a setting of `Sampler`."""

    @abstractmethod
    def sample(self, run: Run) -> Tensor:
        """Return the sample, attached to the autograd graph by this method."""

    def on(self, device: torch.device) -> GradientMethod:
        """Return the method without what makes no difference on a device."""
        return self


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
            # One tensor for all: many small ones would riddle the heap that latents come from.
            self._sums = torch.zeros(len(self.timesteps), dtype=latent.dtype, device=latent.device)
        self._steps.append(step)
        self._sums[step] = latent.detach().sum()

    def raise_if_not_finite(self) -> None:
        """Raise FloatingPointError that names the first call in question."""
        if self._sums is None:
            return
        finite = torch.isfinite(self._sums).tolist()
        for step in self._steps:
            if not finite[step]:
                raise FloatingPointError(
                    f"{self.what} of network call {step} (timestep {self.timesteps[step]:g}) is "
                    "not finite. Look at the network's input there: a half-precision overflow is "
                    "the usual cause (run the network in bfloat16 or float32)"
                )
