"""Where along a trajectory a gradient goes wrong: the adjoint of the state, step by step.

The adjoint of a sampler is followed through the products that autograd makes at each network call,
whatever the method that asks for them. With calls before k held constant, the gradient for the
noise is

    S_k = b_0 a + sum_(j >= k) A[j, 0] v_j,

a the sample's adjoint, v_j the vector-Jacobian product of call j, A and b the plan's table. It is
the adjoint, carried back to call k, of the state ``b_0 x_T + sum_(j < k) b_j f_j``; what that state
holds tells its place in the process, and its size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..form import Point
from ..gradients import Observer
from ..plan import Plan, pulled_calls
from ..prediction import output_of
from ..schedule import Schedule


@dataclass(frozen=True)
class StepAdjoint:
    """The adjoint of the state at a place of the process.

    Args:
        timestep: of the network call there.
        angle: ``atan2(sigma, alpha)`` of the state.
        adjoint: (batch, ...) of ``x / hypot(alpha, sigma)``, in float64.
    """

    timestep: float
    angle: float
    adjoint: Tensor


@dataclass
class Watch:
    """What passes through a network, seen from outside.

    Args:
        num_calls: how often it was called.
        calls: input and output of each call.
    """

    num_calls: int = 0
    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list)


@contextmanager
def watched(network: nn.Module, *, keep: bool) -> Iterator[Watch]:
    """Watch a network within a block.

    Args:
        network: takes its input first.
        keep: keep inputs and outputs, and not only count.
    """
    watch = Watch()

    def after(_: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        watch.num_calls += 1
        if keep:
            watch.calls.append((arguments[0].detach(), output.detach()))

    handle = network.register_forward_hook(after)
    try:
        yield watch
    finally:
        handle.remove()


class Notes(Observer):
    """What a reverse sweep tells.

    Args:
        keep: keep products and steps, and not the round trip only.
    """

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self.products: dict[int, Tensor] = {}
        self.steps: list[tuple[Point, Tensor, Tensor]] = []
        self.round_trip: float | None = None

    def on_product(self, k: int, product: Tensor) -> None:
        """Keep a product."""
        if self._keep:
            self.products[k] = product

    def on_step(self, point: Point, x: Tensor, adjoint: Tensor) -> None:
        """Keep a step."""
        if self._keep:
            self.steps.append((point, x, adjoint))

    def on_round_trip(self, error: float) -> None:
        """Keep the error."""
        self.round_trip = error


def adjoints_of_plan(
    plan: Plan, schedule: Schedule, products: Mapping[int, Tensor], adjoint: Tensor
) -> list[StepAdjoint]:
    """Return the adjoint of the state at the plan's steps, from the image to the noise.

    Args:
        plan: the sampler, or the coarse plan whose transpose was taken.
        schedule: of the process.
        products: vector-Jacobian products by call; where one is missing the sweep ended.
        adjoint: of the sample.
    """
    angles, sizes = _places(plan, schedule)
    starts = frozenset(plan.step_starts or ())
    carried = adjoint.double() * float(plan.sample[0])
    found = []
    for k in takewhile(products.__contains__, pulled_calls(plan.program)):
        carried = carried + float(plan.table[k, 0]) * products[k].double()
        if k in starts:
            at = float(plan.timesteps[k])
            found.append(StepAdjoint(at, float(angles[k]), carried * float(sizes[k])))
    return found


def _places(plan: Plan, schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
    """Return the angle of each call's state, and the noise's derivative of it, inverted."""
    assert plan.prediction_type is not None
    times, b = plan.timesteps, plan.sample
    alphas, sigmas = schedule.alpha(times), schedule.sigma(times)
    if b[0] == 0:
        # The end does not read the start (a network that predicts x_0): the inputs themselves.
        contents, weights = plan.marginals(schedule)[:-1], plan.inputs[:, 0]
    else:
        outputs = np.array(
            [output_of(plan.prediction_type, a, s) for a, s in zip(alphas, sigmas, strict=True)]
        )
        start = b[0] * np.array([alphas[0], sigmas[0]]) / plan.table[0, 0]
        before = np.cumsum(b[1 : 1 + len(times), None] * outputs, axis=0)
        contents = start + np.concatenate([np.zeros((1, 2)), before[:-1]])
        weights = np.full(len(times), b[0])
    return np.arctan2(contents[:, 1], contents[:, 0]), np.hypot(*contents.T) / weights


def relative_errors(found: Sequence[StepAdjoint], exact: Sequence[StepAdjoint]) -> list[float]:
    """Return the distance of adjoints to the exact ones at the same places, relative to those.

    Between two places the exact one is interpolated linearly in the angle.
    """
    places = np.array([step.angle for step in exact])
    errors = []
    for step in found:
        i = int(np.clip(np.searchsorted(places, step.angle), 1, len(places) - 1))
        left, right = exact[i - 1], exact[i]
        share = (step.angle - left.angle) / (right.angle - left.angle)
        reference = torch.lerp(left.adjoint, right.adjoint, min(max(share, 0.0), 1.0))
        errors.append(float((step.adjoint - reference).norm() / reference.norm()))
    return errors
