"""Running a program forward, and its transpose backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .noise import CounterNoise
from .program import Program, Row, Value

Call = Callable[[int, Tensor], Tensor]
"""``(k, input) -> output`` of network call k."""
Pullback = Callable[[int, Tensor], Tensor | None]
"""``(k, adjoint of output k) -> adjoint of input k``, or None where nobody needs it."""


class Draws:
    """The noises drawn on the way, in the order of the plan, each made when it is first needed.

    Args:
        like: a latent of the shape, dtype and device of a draw.
        generator: where the noise comes from; a list gives each sample of the batch its own, and
            a `CounterNoise` computes any draw from its number.
        given: (num_draws, batch, ...) noises to use in place of drawing.
    """

    def __init__(
        self,
        like: Tensor,
        generator: torch.Generator | list[torch.Generator] | CounterNoise | None = None,
        given: Tensor | None = None,
    ) -> None:
        self._like, self._generator, self.given = like, generator, given
        self._next = 0

    def __call__(self, index: int) -> Tensor:
        """Return draw ``index``; indices must ascend where a generator with a state draws."""
        if self.given is not None:
            return self.given[index]
        if isinstance(self._generator, CounterNoise):
            return self._generator(index, self._like)
        if index < self._next:
            raise ValueError(f"draw {index} was asked for after draw {self._next - 1}")
        while True:
            like = self._like
            noise = randn_tensor(like.shape, self._generator, like.device, like.dtype)
            self._next += 1
            if self._next > index:
                return noise


def _combine(row: Row, held: Mapping[Value, Tensor]) -> Tensor:
    (value, weight), *rest = row
    total = held[value] * weight
    for value, weight in rest:
        total = torch.add(total, held[value], alpha=weight)
    return total


def execute(program: Program, call: Call, noise: Tensor, draws: Callable[[int], Tensor]) -> Tensor:
    """Run a program and return its sample; what no later row reads is let go at once.

    Args:
        program: the recurrence of a plan.
        call: the network.
        noise: standard-normal latent.
        draws: returns the noise of an index.
    """
    held = {Value("noise"): noise}
    for k, row in enumerate(program.rows):
        for value, _ in row:
            if value.kind == "draw" and value not in held:
                held[value] = draws(value.number)
        x = _combine(row, held)
        for value in program.retired[k]:
            del held[value]
        if k == program.num_calls:
            return x
        if Value("input", k) in program.last_use:
            held[Value("input", k)] = x
        output = call(k, x)
        if Value("output", k) in program.last_use:
            held[Value("output", k)] = output
    raise AssertionError("a program ends with the row of its sample")


def transpose(
    program: Program, adjoint: Tensor, pull_back: Pullback, constant_before: int = 0
) -> tuple[Tensor | None, Sequence[Tensor | None]]:
    """Run the transpose of a program: from the sample's adjoint to those of noise and draws.

    Args:
        program: the recurrence of a plan.
        adjoint: gradient of the objective with respect to the sample.
        pull_back: the network's vector-Jacobian product.
        constant_before: the input of this call, and all that was there before it, is taken for a
            constant; 0 for nothing.

    Returns:
        The adjoints of the noise and of each draw; None for what nothing reads.
    """
    adjoints: dict[Value, Tensor] = {}

    def scatter(row: Row, adjoint: Tensor) -> None:
        for value, weight in row:
            known = adjoints.get(value)
            if known is None:
                adjoints[value] = adjoint * weight
            else:
                adjoints[value] = torch.add(known, adjoint, alpha=weight)

    scatter(program.rows[-1], adjoint)
    for k in reversed(range(constant_before, program.num_calls)):
        total = adjoints.pop(Value("input", k), None)
        output = adjoints.pop(Value("output", k), None)
        if output is not None:
            pulled = pull_back(k, output)
            if pulled is not None:
                total = pulled if total is None else total + pulled
        if total is not None and (k > constant_before or k == 0):
            scatter(program.rows[k], total)
    draws = [adjoints.get(Value("draw", j)) for j in range(program.num_draws)]
    noise = adjoints.get(Value("noise")) if constant_before == 0 else None
    return noise, draws
