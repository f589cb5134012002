"""The sampler's own transpose, in which most vector-Jacobian products are interpolated.

In the flow form of the ODE a sampler is a sum, ``z_end = z_start + sum_k w_k F_k``, with
``z = x / (alpha + sigma)`` and ``F = eps - x_0`` (`solvers.form`). The adjoint a_k that reaches F_k
is about w_k times that of the state, so that

    G_k = (alpha_k + sigma_k) (dF_k / dx_k)^T a_k / w_k

changes slowly from call to call, whatever the solver. It is computed at a few calls and linear in k
between them. To get from one to the next it is taken for constant, the product is taken there, and
the way is gone again with G interpolated: a predictor and a corrector, with one product for both.
The predictor is of first order on purpose. In directions in which the data does not vary, G falls
from its largest value to zero within the last step to the image, and a line through the two, drawn
on over longer steps, explodes: 43 times the norm of the gradient was seen at 8 steps.

What is approximated is the products alone. So the error goes to zero where all are taken, and does
not stall at the difference between the sampler and its ODE, as that of another plan's transpose.
How large it is, the products that are taken tell: where G bends from one to the next, the line
between them is off by as much (`InterpolationError`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..form import Point
from ..plan import Plan, Transposed
from ..prediction import Linear
from ..schedule import Schedule
from .accuracy import judge
from .exact import ExactSweep
from .method import Run
from .sweep import FLOW, solution_points

IRREGULAR = 4.0
"""How many times the step in the flow form's time the weight of a call may be, or the inverse."""


class SparseSweep(ExactSweep):
    """A forward run that stores the inputs of some calls only.

    Args:
        run: what is run.
        calls: whose products will be taken.
    """

    def __init__(self, run: Run, calls: Collection[int]) -> None:
        super().__init__(run)
        self._calls = calls

    def call(self, k: int, x: Tensor) -> Tensor:
        """Run call k; store its input if its product will be taken."""
        output = super().call(k, x)
        if k not in self._calls:
            del self._inputs[k]
        return output


def _drifts(plan: Plan, points: Sequence[Point]) -> list[Linear]:
    """Return the velocity F of each call as a linear function of its input and output."""
    return [FLOW.drift(str(plan.prediction_type), point) for point in points]


def flow_weights(plan: Plan, schedule: Schedule) -> np.ndarray:
    """Return w_k, the weight of each call's velocity in the sample, in the flow form."""
    of_x, of_output = np.array(_drifts(plan, Point.all_at(schedule, plan.timesteps))).T
    # Outputs are f = (F - of_x x) / of_output, and inputs x the combinations of outputs in a table.
    table = plan.table[:, 1 : 1 + plan.num_calls] / of_output
    inputs = np.linalg.solve(np.eye(plan.num_calls) + table[:-1] * of_x, table[:-1])
    return table[-1] - (table[-1] * of_x) @ inputs


def irregular_calls(plan: Plan, schedule: Schedule) -> list[int]:
    """Return the calls that are not a step of their own, or whose weight is not of its size.

    They are few in multistep methods: at the start, and where the last steps grow in log-SNR.
    """
    starts, weights = plan.step_starts or (), flow_weights(plan, schedule)
    steps = np.diff([FLOW.tau(point) for point in solution_points(plan, schedule)])
    ratios = {
        start: weights[start] / step
        for start, end, step in zip(starts, [*starts[1:], plan.num_calls], steps, strict=True)
        if end == start + 1
    }
    return [k for k in range(plan.num_calls) if not 1 / IRREGULAR < ratios.get(k, 0.0) < IRREGULAR]


def ends_clean(plan: Plan, schedule: Schedule) -> bool:
    """Return whether the last call's step ends at the clean image.

    Such a step takes the prediction of x_0 for the image, and with it forgets all directions in
    which the data does not vary: its product has no likeness to those before it.
    """
    return solution_points(plan, schedule)[-1].sigma == 0


class InterpolatedSweep(SparseSweep):
    """The transposed sweep with products at some calls and interpolated ones between.

    Args:
        run: what is run.
        nodes: calls between which products are interpolated, in ascending order.
        alone: calls whose products are taken and serve for nothing else.
    """

    def __init__(self, run: Run, nodes: Sequence[int], alone: Sequence[int] = ()) -> None:
        super().__init__(run, {*nodes, *alone})
        plan, schedule = run.plan, run.denoiser.schedule
        points = Point.all_at(schedule, plan.timesteps)
        self._nodes = nodes
        self._scales = [FLOW.scale(point) for point in points]
        self._drifts = _drifts(plan, points)
        weights = flow_weights(plan, schedule)
        weights[list(alone)] = 1.0  # They may be zero, and any number will do.
        self._weights = weights.tolist()
        self._shares = shares(self._weights, nodes, alone)
        weights[list(alone)] = 0.0
        self._interpolated = weights
        self._error = InterpolationError(weights)

    def backward(
        self, adjoint: Tensor, noise_needed: bool, draws_needed: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Run the transposed program, and judge it by the products that were taken."""
        self._error = InterpolationError(self._interpolated)
        found = super().backward(adjoint, noise_needed, draws_needed)
        judge(
            self.run,
            self._error.estimate(),
            f"CoarseAdjoint took {len(self._calls)} products for {self.run.plan.num_calls} network "
            "calls, which are",
        )
        return found

    def transpose(
        self, adjoint: Tensor, noise_needed: bool
    ) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        """Carry the sample's adjoint back to the noise."""
        state = Transposed(self.run.plan.program, adjoint)
        known: list[tuple[int, Tensor]] = []
        following = self.run.plan.num_calls
        for node in [*reversed(self._nodes), 0]:
            stretch = range(node, following)[::-1]
            taken: dict[int, Tensor] = {}
            predicted = state.copy()
            for k in stretch:
                if k in self._calls and (output := predicted.output(k)) is not None:
                    taken[k] = self._take(k, output)
                    if k == node and k in self._nodes:
                        self._error.add(k, taken[k], self._state_adjoint(k, output))
                self._pass(k, predicted, taken, known[-1:])
            if node in taken and node in self._nodes:
                known = [*known[-1:], (node, taken[node])]
            for k in stretch:
                self.tell(k, self._pass(k, state, taken, known))
            following = node
        return state.noise, state.draws

    def _state_adjoint(self, k: int, output: Tensor) -> Tensor:
        """Return a_k / w_k, about the adjoint of z, from the adjoint of an output."""
        return output / (self._drifts[k].output_weight * self._weights[k])

    def _take(self, k: int, output: Tensor) -> Tensor:
        """Return G_k from the adjoint of an output; the sums get the share of the call."""
        x_weight, output_weight = self._drifts[k]
        adjoint, share = self._state_adjoint(k, output), self._shares[k]
        pulled = self.pull_back(k, adjoint * (output_weight * share), input_needed=True)
        g = x_weight * adjoint
        return self._scales[k] * (g if pulled is None else g + pulled / share)

    def _pass(
        self,
        k: int,
        state: Transposed,
        taken: Mapping[int, Tensor],
        known: Sequence[tuple[int, Tensor]],
    ) -> Tensor | None:
        """Carry the adjoint through call k, with G_k as far as it is known; return the product."""
        product, output = None, state.output(k)
        if output is not None:
            g = taken[k] if k in taken else linear(known, k)
            x_weight, output_weight = self._drifts[k]
            product = g * (self._weights[k] / self._scales[k]) - output * (x_weight / output_weight)
        state.pass_call(k, product)
        return product


class InterpolationError:
    """Estimates the error of interpolated products from those that are taken.

    A line over h calls is off by ``h^2 / 12`` times the second derivative on average, and that is
    known from each three products in a row. Where there are but two, the second is taken to be
    off from the first by as much as it is; where there is one, what was not taken is the error.
    Errors of stretches are added up, each relative to the adjoint where it arises.

    Args:
        weights: of each call's G in the adjoint; 0 for calls that are not interpolated.
    """

    def __init__(self, weights: np.ndarray) -> None:
        self._weights = np.abs(weights)
        self._latest: list[tuple[int, Tensor]] = []
        self._nodes: list[int] = []
        self._sizes: list[Tensor] = []
        self._changes: list[Tensor] = []
        self._bends: list[Tensor] = []

    def add(self, node: int, g: Tensor, adjoint: Tensor) -> None:
        """Take note of G at a call, the calls coming in descending order.

        Args:
            node: the call.
            g: its G.
            adjoint: of the state there.
        """
        if len(self._latest) == 2:
            (left, value), (middle, other) = self._latest
            slopes = (other - value) / (middle - left), (g - other) / (node - middle)
            self._bends.append((2 * (slopes[1] - slopes[0]) / (node - left)).norm())
        previous = self._latest[-1:]
        self._changes.append((g - previous[0][1] if previous else g).norm())
        self._latest = [*previous, (node, g)]
        self._nodes.append(node)
        self._sizes.append(adjoint.norm())

    def estimate(self) -> Tensor:
        """Return the error relative to the norm of the gradient, as a tensor."""
        total = torch.zeros_like(self._sizes[0])
        for i, (node, size) in enumerate(zip(self._nodes, self._sizes, strict=True)):
            end = self._nodes[i + 1] if i + 1 < len(self._nodes) else -1
            between = np.arange(end + 1, node)
            weight = float(self._weights[between].sum())
            if len(self._nodes) == 1:
                total = total + weight * self._changes[0] / size
            elif i + 1 == len(self._nodes) or not len(between):
                continue
            elif not self._bends:
                total = total + weight * self._changes[i + 1] / size / 2
            else:
                bend = torch.stack(self._bends[max(i - 1, 0) : i + 1]).max()
                off = float(((node - between) * (between - end) / 2).mean())
                total = total + weight * off * bend / size
        return total


def linear(known: Sequence[tuple[int, Tensor]], at: int) -> Tensor:
    """Return the line through two values, or one value, at a number."""
    (left, value), (right, other) = known[0], known[-1]
    if left == right:
        return value
    return value.lerp(other, (at - left) / (right - left))


def shares(
    weights: Sequence[float], nodes: Sequence[int], alone: Sequence[int] = ()
) -> dict[int, float]:
    """Return the weight that each call stands for, when the others are linear between nodes.

    >>> shares([1.0, 1.0, 1.0, 1.0, 9.0], [0, 3], [4])
    {0: 2.0, 3: 2.0, 4: 9.0}
    """
    between = [k for k in range(len(weights)) if k not in alone]
    found = {}
    for node, unit in zip(nodes, np.eye(len(nodes)), strict=True):
        found[node] = float(np.interp(between, nodes, unit) @ np.take(weights, between))
    return {**found, **{k: weights[k] for k in alone}}
