"""Exact gradients with no stored states: reversible samplers, walked backwards.

A reversible sampler keeps a pair of states that can be reconstructed from its end by algebra alone
(see `adjointdpm.solvers.reversible`). The reverse sweep undoes the run change by change and applies
the transpose of each on the way. That is the gradient of the very numbers that were computed, in
memory that does not grow with the steps. How far the walk back misses the noise where the run
started is measured every time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, get_args

import torch
from torch import Tensor

from ..plan import Call, Plan, execute
from ..schedule import Schedule
from ..solvers import TABLEAUS, Reversal, reversal
from .method import FiniteCheck, GradientMethod, Run
from .sweep import Step, StepTranspose, Sweep, attach, refuse_transforms, solution_points

Family = Literal["mccallum_foster", "bdia", "belm"]
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Reversible(GradientMethod):
    """A reversible sampler on the plan's grid of times, and its exact gradient with nothing stored.

    The sampler is another than the plan's, of which only the times are used; `reference_plan` gives
    its table. States are kept in float64, so that walking back gives the network the same inputs;
    the network runs in its own dtype. The last step to a clean image cannot be undone: it is a step
    of DDIM from the end of the pair.

    Args:
        family: ``mccallum_foster`` couples a one-step method in data form to its own reverse
            (arXiv 2410.11648), at twice its calls; ``bdia`` (arXiv 2307.10829) and ``belm`` (arXiv
            2410.07273) are two-step methods of one call a step.
        coupling: lambda of McCallum and Foster, the weight of the state before last in BDIA;
            ``belm`` has none. Further below 1 the pair stays closer together, the sampler loses
            accuracy, and the walk back loses more digits: ``coupling^-N``.
        solver: the one-step method of ``mccallum_foster``, such as ``euler`` (DDIM) or ``heun``.
        tolerance: the largest distance between the reconstructed noise and the noise that was
            given, relative to the norm of the latter, over the samples of the batch.
            An observer's ``on_round_trip`` is told the distance.

    Raises:
        ValueError: an unknown word or a number out of its range.
        RuntimeError: in ``backward``, when the distance is above the tolerance.

    >>> from adjointdpm import Denoiser, Sampler, Schedule, solvers
    >>> schedule = Schedule.vp_linear()
    >>> plan = solvers.build("ddim", schedule, num_inference_steps=10)
    >>> sampler = Sampler(Denoiser(lambda x, t: x, schedule), plan, Reversible(tolerance=1e-9))
    >>> noise = torch.randn(2, 3, requires_grad=True)
    >>> sampler(noise).sum().backward()
    >>> noise.grad.shape
    torch.Size([2, 3])
    """

    family: Family = "mccallum_foster"
    coupling: float = 0.999
    solver: str = "euler"
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.family not in get_args(Family):
            raise ValueError(
                f"family {self.family!r} is not known; use one of {', '.join(get_args(Family))}"
            )
        if self.solver not in TABLEAUS:
            raise ValueError(f"solver {self.solver!r} is not known; use {', '.join(TABLEAUS)}")
        if self.solver != "euler" and self.family != "mccallum_foster":
            raise ValueError(
                f"{self.family} is a method of its own and takes no solver={self.solver!r}; only "
                "mccallum_foster couples one"
            )
        if not 0 < self.coupling <= 1:
            raise ValueError(f"coupling must be above 0 and at most 1, not {self.coupling}")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive, not {self.tolerance}")

    def unguarded(self) -> Reversible:
        """Return the method with no bound on how far the walk back misses its start."""
        return replace(self, tolerance=math.inf)

    def reference_plan(self, plan: Plan, schedule: Schedule) -> Plan:
        """Return the table of the reversible sampler that takes the place of a plan."""
        return self.reversal(plan, schedule).plan()

    def reversal(self, plan: Plan, schedule: Schedule) -> Reversal:
        """Return the reversible sampler that takes the place of a plan."""
        points = solution_points(plan, schedule)
        assert plan.prediction_type is not None, "solution_points refuses such a plan"
        return reversal(
            self.family,
            schedule,
            points,
            plan.prediction_type,
            scale=float(plan.table[0, 0]),
            coupling=self.coupling,
            solver=self.solver,
        )

    def sample(self, run: Run) -> Tensor:
        """Return the sample, with this method as its one autograd node."""
        refuse_transforms()
        sweep = ReversibleSweep(run, self, self.reversal(run.plan, run.denoiser.schedule))
        if torch.is_grad_enabled():
            return attach(sweep)
        return sweep.walk(sweep.network.run_without_graph)[0]


class ReversibleSweep(Sweep):
    """The forward run, of which only the last pair of states is kept, and the walk back."""

    def __init__(self, run: Run, method: Reversible, reversal: Reversal) -> None:
        # Reconstructed inputs are as good as the round trip, and so are the answers to them.
        super().__init__(run, reversal.timesteps, tolerance=10 * method.tolerance)
        self._method, self._reversal = method, reversal
        self._steps = steps_of(reversal)
        # With states in the network's precision, rounding on the way back would change its inputs.
        self._dtype = torch.float32 if run.noise.device.type == "mps" else torch.float64
        self._end: Pair | None = None

    def call(self, k: int, x: Tensor) -> Tensor:
        """Run call k; nothing of it is stored."""
        return self.network.run(k, x)

    def forward(self) -> Tensor:
        """Return the sample and keep the pair of states that the walk back starts from."""
        sample, self._end = self.walk(self.call)
        return sample

    def walk(self, network: Call) -> tuple[Tensor, Pair]:
        """Run the sampler; return the sample and the last pair of states."""
        check = FiniteCheck("the output", self._reversal.timesteps, self.run.check_finite)

        def call(k: int, x: Tensor) -> Tensor:
            output = network(k, x.to(self.run.noise.dtype))
            check.record(k, output)
            return output.to(self._dtype)

        pair = walk(self._reversal, call, self._start())
        sample = pair[self._reversal.newest]
        if self._reversal.closing is not None:
            sample = run_step(self._steps[-1], call, sample)
        check.raise_if_not_finite()
        # A copy: the pair is where the walk back starts, and the sample is the user's to change.
        return sample.to(self.run.noise.dtype, copy=True), pair

    def _start(self) -> Tensor:
        return self._reversal.scale * self.run.noise.detach().to(self._dtype)

    def backward(
        self, adjoint: Tensor, noise_needed: bool, draws_needed: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Undo the changes from the last to the first, and apply the transpose of each."""
        assert self._end is not None
        run, newest = self.run, self._reversal.newest
        check = FiniteCheck("the adjoint at the input", self._reversal.timesteps, run.check_finite)
        transposed = StepTranspose(self.network, run.noise.dtype, check, self.tell)
        pair = list(self._end)
        adjoints = [torch.zeros_like(state) for state in pair]
        adjoints[newest] += adjoint
        if self._reversal.closing is not None:
            closing = self._steps[-1]
            _, pulled, _ = transposed(
                closing, pair[newest], adjoints[newest], input_needed=noise_needed
            )
            adjoints[newest] = torch.zeros_like(pair[newest]) if pulled is None else pulled
        changes = list(zip(self._reversal.shears, self._steps, strict=False))
        for shear, step in reversed(changes):
            target, other = shear.target, 1 - shear.target
            change, pulled, _ = transposed(
                step, pair[other], adjoints[target], input_needed=noise_needed
            )
            pair[target] = (pair[target] - change) / shear.weight
            if pulled is not None:
                adjoints[other] = adjoints[other] + pulled
            adjoints[target] = shear.weight * adjoints[target]
        self.network.judge_later(check)
        self.network.judge_now()
        self._judge(pair)
        noise = self._reversal.scale * (adjoints[0] + adjoints[1])
        return noise.to(run.noise.dtype) if noise_needed else None, None

    def _judge(self, pair: Sequence[Tensor]) -> None:
        """Measure how far the reconstructed start is from the noise; refuse what is too far."""
        if self.run.noise.is_meta:
            return
        start = self._start().flatten(1)
        # The norm of a standard-normal latent is far above 1, that of an optimised one may not be.
        norm = start.norm(dim=1).clamp_min(self._reversal.scale)
        distances = [(state.flatten(1) - start).norm(dim=1) / norm for state in pair]
        error, tolerance = float(torch.stack(distances).max()), self._method.tolerance
        if self.run.observer is not None:
            self.run.observer.on_round_trip(error)
        if not error <= tolerance:
            raise RuntimeError(
                f"{self._reversal.name} could not be walked backwards: the reconstructed noise is "
                f"off by {error:.1e} of its norm, above the tolerance of {tolerance:.1e}, so the "
                "gradient is not to be trusted. Move coupling closer to 1, take fewer steps or "
                "another family, see that the network is deterministic, or use Exact(), which "
                "stores the states"
            )


def steps_of(reversal: Reversal) -> list[Step]:
    """Return the shears' increments and the closing step, each with its place in the whole run."""
    calls = [part.num_calls for part in reversal.parts]
    firsts = accumulate(calls, initial=0)
    return [Step(first, part.program) for first, part in zip(firsts, reversal.parts, strict=False)]


def run_step(step: Step, call: Call, state: Tensor) -> Tensor:
    """Return where a step without draws ends.

    Args:
        step: the step.
        call: the network, by the number of the call in the whole run.
        state: where it starts.
    """
    return execute(step.program, lambda i, x: call(step.first + i, x), state, no_draws)


def walk(reversal: Reversal, call: Call, start: Tensor) -> Pair:
    """Return the pair of states at the end of all shears, both of which start alike."""
    pair = [start, start]
    for shear, step in zip(reversal.shears, steps_of(reversal), strict=False):
        change = run_step(step, call, pair[1 - shear.target])
        pair[shear.target] = shear.weight * pair[shear.target] + change
    return pair[0], pair[1]


def walk_back(reversal: Reversal, call: Call, end: Pair) -> Pair:
    """Return the pair of states from which all shears lead to a pair: the inverse of `walk`."""
    pair = list(end)
    for shear, step in reversed(list(zip(reversal.shears, steps_of(reversal), strict=False))):
        change = run_step(step, call, pair[1 - shear.target])
        pair[shear.target] = (pair[shear.target] - change) / shear.weight
    return pair[0], pair[1]


def no_draws(number: int) -> Tensor:
    """Refuse: these steps are deterministic."""
    raise AssertionError("a deterministic step draws no noise")
