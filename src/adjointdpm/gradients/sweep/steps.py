"""One step of a sampler, run again in the reverse sweep: its stages, then its transpose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...plan import Program, execute, transpose
from ..method import FiniteCheck
from .network import Network


@dataclass(frozen=True)
class Step:
    """A step as a program of its own, whose ``noise`` is the state that the step starts from.

    Args:
        first: the number of the step's first network call in the whole run.
        program: stages and end of the step; draws keep the numbers of the whole run.
    """

    first: int
    program: Program


class StepTranspose:
    """Takes vector-Jacobian products of whole steps, with the activations of one call at a time.

    A step of s stages costs s - 1 calls for the inputs of its stages, and s calls with a graph.

    Args:
        network: the network of the run.
        dtype: what the network is given.
        check: takes note of the adjoints.
        tell: is told the product of each call, by the number of the call in the whole run.
    """

    def __init__(
        self,
        network: Network,
        dtype: torch.dtype,
        check: FiniteCheck,
        tell: Callable[[int, Tensor], object],
    ) -> None:
        self._network, self._dtype, self._check, self._tell = network, dtype, check, tell

    def __call__(
        self,
        step: Step,
        state: Tensor,
        adjoint: Tensor,
        *,
        stored: Mapping[int, Tensor] | None = None,
        input_needed: bool = True,
    ) -> tuple[Tensor, Tensor | None, Sequence[Tensor | None]]:
        """Return the end of a step, and the adjoints of its start and of the draws.

        Args:
            step: the step.
            state: where it starts.
            adjoint: that of its end.
            stored: inputs of network calls that need not be computed again, by call.
            input_needed: whether anybody needs the adjoint of the first call's input.
        """
        last = step.program.num_calls - 1
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []

        def rerun(i: int) -> Tensor:
            inputs[i], (output,) = self._network.rerun_with_graph(step.first + i, inputs[i])
            return output

        def call(i: int, x: Tensor) -> Tensor:
            inputs.append((stored or {}).get(step.first + i, x).to(self._dtype))
            if i < last:
                return self._network.rerun(step.first + i, inputs[i]).to(state.dtype)
            outputs.append(rerun(i))
            return outputs[0].detach().to(state.dtype)

        def pull_back(i: int, adjoint: Tensor) -> Tensor | None:
            # The last stage comes first here, and has its graph already.
            output = outputs.pop() if outputs else rerun(i)
            pulled = self._network.pull_back(
                inputs[i],
                [output],
                [adjoint.to(output.dtype)],
                input_needed=step.first + i > 0 or input_needed,
            )
            if pulled is None:
                return None
            self._check.record(step.first + i, pulled)
            self._tell(step.first + i, pulled)
            return pulled.to(adjoint.dtype)

        # An input that reads a draw is stored, and the end of such a step is not asked for.
        end = execute(step.program, call, state, lambda number: torch.zeros_like(state))
        start, draws = transpose(step.program, adjoint, pull_back)
        return end, start, draws
