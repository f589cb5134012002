"""Truncated gradients: through the last network calls only (DRaFT-K, arXiv 2309.17400).

There are two things that people mean by it, and they differ. With ``detach_steps`` the latent that
enters the last K calls is a constant: nothing before it gets a gradient. With ``detach_outputs``
only the earlier network outputs are constants, while the latent is still followed back to the noise
along the linear path ``x_k = A[k, 0] noise + ...``: the noise gets a gradient, as if the earlier
network did not react to it. Both are biased, and how much depends on the objective: `Exact` tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ..plan import transpose
from .exact import ExactSweep
from .method import Cut, GradientMethod, Run
from .sweep import attach, attach_collecting


@dataclass(frozen=True)
class Truncated(GradientMethod):
    """The gradient through the last calls only: cheap, biased.

    Args:
        last: K, how many network calls are differentiated.
        mode: ``detach_steps`` or ``detach_outputs``, see above.

    Raises:
        ValueError: ``last`` below 1 or an unknown mode.
    """

    last: int
    mode: Literal["detach_steps", "detach_outputs"] = "detach_steps"

    def __post_init__(self) -> None:
        if self.last < 1:
            raise ValueError(f"last must be at least 1, not {self.last}")
        if self.mode not in ("detach_steps", "detach_outputs"):
            raise ValueError(f"mode must be detach_steps or detach_outputs, not {self.mode!r}")

    def sample(self, run: Run) -> Tensor:
        """Return the sample, with this method as its one autograd node."""
        return attach(TruncatedSweep(run, self))

    def collect(self, run: Run) -> tuple[Tensor, Any]:
        """Return the sample, and what was collected, that of the earlier calls as constants."""
        return attach_collecting(TruncatedSweep(run, self))

    @property
    def needs_plan(self) -> bool:
        """No: calls can be counted wherever it is known how many there will be."""
        return False

    @property
    def cut(self) -> Cut:
        """Where the gradient ends."""
        return Cut(self.last, detach_latent=self.mode == "detach_steps")


class TruncatedSweep(ExactSweep):
    """The exact sweep, ended early; only the inputs of the last calls are stored."""

    def __init__(self, run: Run, method: Truncated) -> None:
        super().__init__(run)
        self._first = max(run.plan.num_calls - method.last, 0)
        self._detach_steps = method.mode == "detach_steps"

    def call(self, k: int, x: Tensor) -> Tensor:
        """Run call k; store its input if it is among the last."""
        output = super().call(k, x)
        if k < self._first:
            del self._inputs[k]
        return output

    def transpose(
        self, adjoint: Tensor, noise_needed: bool
    ) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        """Carry the adjoint back through the last calls, and from there as the mode says."""
        cut = self._first if self._detach_steps else 0

        def pull_back(k: int, a: Tensor | None) -> Tensor | None:
            if k < self._first:
                return None
            # At the cut the input is the constant that the rest starts from.
            needed = k > cut or (cut == 0 and noise_needed)
            return self.tell(k, self.pull_back(k, a, input_needed=needed))

        return transpose(
            self.run.plan.program,
            adjoint,
            pull_back,
            constant_before=cut,
            every_call=self.collector is not None,
        )
