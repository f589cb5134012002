"""A sampler as a table of numbers.

Every sampler in use computes each network input and the final sample as a linear combination of the
initial noise, earlier network outputs and drawn noises, with coefficients that do not depend on the
image. A `Plan` is that table. Solvers fill it in, diffusers' schedulers are read into it, one
executor runs it, and one reverse sweep differentiates it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from ..prediction import check_prediction_type, output_of
from ..schedule import Schedule
from .probe import read_scheduler
from .recurrence import Program, compress
from .variables import NO_VARIABLES, PlanVariables


@dataclass(frozen=True, eq=False)
class Plan:
    """The table of a sampler: ``x_k = sum_j table[k, j] v_j``, the last row being the sample.

    The columns are ``v = (noise, f_0 ... f_{N-1}, z_0 ... z_{M-1})``: the standard-normal latent,
    the network outputs and the drawn noises. Row k reads only outputs before k.

    Args:
        timesteps: (N,) the network's time at each call.
        table: (N + 1, 1 + N + M) coefficients, float64.
        num_draws: M, how many noises are drawn on the way.
        prediction_type: what the plan takes the network's output for; ``None`` where it is none of
            diffusers' four words.
        step_starts: the calls whose input is an approximation of the solution itself, not an
            intermediate stage; ``None`` to infer them from repeated timesteps.
        name: for messages and reports.
        variables: the tensors that the table and the timesteps were made of; see `with_tensors`.

    Raises:
        ValueError: the table has no steps, a wrong shape, a coefficient that is not finite, or a
            row that reads a later output.
    """

    timesteps: np.ndarray
    table: np.ndarray
    num_draws: int = 0
    prediction_type: str | None = None
    step_starts: tuple[int, ...] | None = None
    name: str = "plan"
    variables: PlanVariables = NO_VARIABLES

    def __post_init__(self) -> None:
        timesteps = np.array(self.timesteps, dtype=np.float64)
        table = np.array(self.table, dtype=np.float64)
        calls = len(timesteps)
        if calls == 0:
            raise ValueError("a plan needs at least one step")
        if table.shape != (calls + 1, 1 + calls + self.num_draws):
            raise ValueError(
                f"the table of {calls} calls and {self.num_draws} draws must have the shape "
                f"{(calls + 1, 1 + calls + self.num_draws)}, not {table.shape}"
            )
        if not (np.isfinite(table).all() and np.isfinite(timesteps).all()):
            raise ValueError("the plan has a coefficient or a timestep that is not finite")
        if np.triu(table[:-1, 1 : 1 + calls]).any():
            raise ValueError("a network input reads an output that is not there yet")
        if self.prediction_type is not None:
            check_prediction_type(self.prediction_type)
        for array in (timesteps, table):
            array.setflags(write=False)
        object.__setattr__(self, "timesteps", timesteps)
        object.__setattr__(self, "table", table)
        if self.step_starts is None:
            # A corrector stage sits at the time of the next step's start, just before it.
            starts = tuple(
                k for k in range(calls) if k + 1 == calls or timesteps[k] != timesteps[k + 1]
            )
            object.__setattr__(self, "step_starts", starts)

    def with_tensors(self, *, table: Tensor | None = None, timesteps: Tensor | None = None) -> Plan:
        """Return the plan with coefficients or times that are tensors and receive gradients.

        ``dL/dtable[k, j]`` is the product of the adjoint of row k with the value of column j, which
        a reverse sweep has at hand. Entries that a row cannot read (outputs that are not there yet)
        get zero. `Exact` and `Backprop` give these gradients. The plan holds the values as they
        are now: after an optimiser's step make it anew.

        Args:
            table: of the shape of the plan's, any floating-point dtype and device; None leaves the
                coefficients constant.
            timesteps: (N,) likewise; the gradient is that of the network with respect to its time.

        Raises:
            ValueError: a wrong shape, or values that no plan can have.

        >>> import torch
        >>> from adjointdpm import Denoiser, Sampler, Schedule, solvers
        >>> schedule = Schedule.vp_linear()
        >>> plan = solvers.build("ddim", schedule, num_inference_steps=4)
        >>> table = torch.tensor(plan.table, requires_grad=True)
        >>> denoiser = Denoiser(lambda x, t: x.sin(), schedule)
        >>> sampler = Sampler(denoiser, plan.with_tensors(table=table))
        >>> sampler(torch.ones(1, 3)).sum().backward()
        >>> table.grad.shape
        torch.Size([5, 5])
        """
        given = ("table", table, self.table), ("timesteps", timesteps, self.timesteps)
        for name, tensor, own in given:
            if tensor is not None and tuple(tensor.shape) != own.shape:
                raise ValueError(
                    f"the {name} of {self.name} has the shape {own.shape}, not "
                    f"{tuple(tensor.shape)}"
                )
        return replace(
            self,
            table=self.table if table is None else table.detach().double().cpu().numpy(),
            timesteps=self.timesteps
            if timesteps is None
            else timesteps.detach().double().cpu().numpy(),
            variables=PlanVariables.of(table, timesteps),
        )

    @property
    def times(self) -> Sequence[float] | Sequence[Tensor]:
        """The network's time at each call, as numbers or, where they receive gradients, tensors."""
        times = self.variables.timesteps
        return self.timesteps.tolist() if times is None else times.unbind()

    @property
    def num_calls(self) -> int:
        """N, how many times the network is called."""
        return len(self.timesteps)

    @property
    def inputs(self) -> np.ndarray:
        """The matrix A of network inputs, (N, 1 + N + M)."""
        return self.table[:-1]

    @property
    def sample(self) -> np.ndarray:
        """The row b of the final sample, (1 + N + M,)."""
        return self.table[-1]

    @cached_property
    def program(self) -> Program:
        """The plan as a recurrence of the shortest length; see `adjointdpm.program`."""
        return compress(self.table, self.num_calls)

    def marginals(self, schedule: Schedule) -> np.ndarray:
        """Return the (alpha, sigma) that each row would have with a network that is always right.

        If the start is ``alpha x_0 + sigma eps`` and every answer is right for the same x_0 and
        eps, a consistent deterministic sampler stays on ``alpha(t) x_0 + sigma(t) eps``. So the
        rows tell where the plan thinks it is, and where it ends.

        Args:
            schedule: the process that the network was trained for.

        Returns:
            (N + 1, 2) alpha and sigma of every network input and of the sample.

        Raises:
            ValueError: the plan's prediction type is not one of the four.
        """
        if self.prediction_type is None:
            raise ValueError(f"the prediction type of {self.name} is not known")
        alphas, sigmas = schedule.alpha(self.timesteps), schedule.sigma(self.timesteps)
        start = np.array([alphas[0], sigmas[0]]) / self.table[0, 0]
        outputs = [
            output_of(self.prediction_type, alpha, sigma)
            for alpha, sigma in zip(alphas, sigmas, strict=True)
        ]
        draws = np.zeros((self.num_draws, 2))
        return self.table @ np.concatenate([start[None], outputs, draws])

    @classmethod
    def from_scheduler(
        cls,
        scheduler: Any,
        num_inference_steps: int | None = None,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        step_arguments: Mapping[str, Any] | None = None,
        begin: int = 0,
        **set_timesteps_arguments: Any,
    ) -> Plan:
        """Read any diffusers scheduler into a plan by running its own ``step`` on one-hot vectors.

        Stochastic schedulers too: each noise that ``step`` draws becomes an input of the plan, in
        the order in which the scheduler draws. The scheduler itself is left as it is.

        Args:
            scheduler: a scheduler whose ``step`` takes model_output, timestep and sample.
            num_inference_steps: passed to ``scheduler.set_timesteps``.
            timesteps: custom timesteps, where the scheduler takes them.
            sigmas: custom sigmas, where the scheduler takes them.
            step_arguments: further arguments of every ``step``, such as ``{"eta": 1.0}``.
            begin: how many of the scheduler's timesteps are left out at the start, as
                ``scheduler.set_begin_index`` does for image-to-image.
            **set_timesteps_arguments: further arguments of ``set_timesteps``, such as ``mu``.

        Returns:
            The plan; `Sampler` reproduces the scheduler's trajectory with it.

        Raises:
            ValueError: the scheduler cannot be read, does not take an argument, or is not linear
                (``clip_sample``, ``thresholding``: those belong into the `Denoiser`).

        >>> from diffusers import DDIMScheduler
        >>> scheduler = DDIMScheduler(clip_sample=False)
        >>> plan = Plan.from_scheduler(scheduler, num_inference_steps=10)
        >>> plan.num_calls, plan.program.num_live
        (10, 3)
        """
        probe = read_scheduler(
            scheduler, num_inference_steps, timesteps=timesteps, sigmas=sigmas,
            step_arguments=step_arguments, begin=begin,
            **set_timesteps_arguments,
        )  # fmt: skip
        return cls(
            timesteps=probe.timesteps,
            table=probe.table,
            num_draws=probe.num_draws,
            prediction_type=probe.prediction_type,
            name=type(scheduler).__name__,
        )

    def __repr__(self) -> str:
        draws = f", num_draws={self.num_draws}" if self.num_draws else ""
        return (
            f"Plan({self.name}, num_calls={self.num_calls}{draws}, "
            f"prediction_type={self.prediction_type!r}, latents_held={self.program.num_live})"
        )
