"""Plain autograd through the whole sampler: exact, with the activations of every call kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .collect import Collector
from .method import GradientMethod, Run
from .sweep import Caller, run_checked


@dataclass(frozen=True)
class Backprop(GradientMethod):
    """The reference: exact, differentiable any number of times, memory grows with the steps.

    Args:
        checkpoint: run each network call in ``torch.utils.checkpoint``, which keeps its input alone
            and runs it again in ``backward``: torch's own way to do what `Exact` does.
    """

    checkpoint: bool = False

    def sample(self, run: Run) -> Tensor:
        """Return the sample with the full autograd graph behind it."""
        return self._sample(run, None)

    def collect(self, run: Run) -> tuple[Tensor, Any]:
        """Return the sample, and what was collected, with the full graph behind them."""
        collector = Collector.of(run, attached=True)
        sample = self._sample(run, collector)
        return sample, collector.nest(collector.stacks)

    def _sample(self, run: Run, collector: Collector | None) -> Tensor:
        times, caller = run.plan.times, Caller(run.denoiser, collector)

        def call(k: int, x: Tensor) -> Tensor:
            if run.observer is not None and x.requires_grad:
                # A view of its own: x has the adjoints of other rows of the table as well.
                x = x.view_as(x)
                x.register_hook(partial(run.observer.on_product, k))
            ask = partial(caller, k, t=times[k], cond=run.cond, alone=False)
            outputs = checkpoint(ask, x, use_reentrant=False) if self.checkpoint else ask(x)
            if collector is not None:
                collector.keep(k, outputs[1:])
            return outputs[0]

        return run_checked(run, call)

    @property
    def graph_budget(self) -> float:
        """Infinity, for all graphs are kept, unless each call is a checkpoint."""
        return 0.0 if self.checkpoint else math.inf

    @property
    def differentiates_plan(self) -> bool:
        """Yes, as any other tensor."""
        return True

    @property
    def needs_plan(self) -> bool:
        """No: autograd follows whatever runs."""
        return False
