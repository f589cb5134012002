"""The network as the memory-saving methods use it: run without a graph, run again for its VJP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ...denoiser import Denoiser, time_tensor
from ...recompute import Environment, Settings, is_compiled, leaves_of
from .totals import Summing, Totals, times_power


class Caller:
    """Calls a denoiser at a number for a time, compiled or not.

    A denoiser that is compiled as a whole takes its time as a tensor, since a number would be
    compiled in: anew for every step. Where a network runs as CUDA graphs, its output lies where
    the next run writes, and is copied.

    Args:
        denoiser: the denoiser, or what ``torch.compile`` made of it.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self._whole = is_compiled(denoiser)
        self.compiled = any(is_compiled(module) for module in denoiser.modules())
        """Whether any part of it is compiled."""

    def __call__(self, x: Tensor, t: float, cond: dict[str, Any], *, alone: bool) -> Tensor:
        """Return the denoiser's output.

        Args:
            x: its input.
            t: its time.
            cond: its conditioning.
            alone: no graph of an earlier call is needed any more.
        """
        graphed = self.compiled and x.device.type == "cuda"
        if graphed and alone:
            torch.compiler.cudagraph_mark_step_begin()
        output = self._denoiser(x, time_tensor(t, x) if self._whole else t, **cond)
        return output.clone() if graphed else output


class Network:
    """The denoiser of one run, with its conditioning and weights as leaves of their own.

    Args:
        denoiser: the network.
        timesteps: the time of each call.
        cond: conditioning, a nest of tensors.
        adjoint_scale: ``auto`` to scale the adjoint of a float16 network, see `pull_back`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        timesteps: Sequence[float],
        cond: dict[str, Any],
        adjoint_scale: Literal["auto"] | None = "auto",
    ) -> None:
        self._denoiser = denoiser
        self._caller = Caller(denoiser)
        self._timesteps = timesteps
        self._adjoint_scale = adjoint_scale
        self._in_float16 = denoiser.network_dtype == torch.float16
        paths, self._structure = pytree.tree_flatten_with_path(cond)
        self._arguments = [leaf for _, leaf in paths]
        self._names = [pytree.keystr(path) for path, _ in paths]
        self._differentiable = [
            i
            for i, leaf in enumerate(self._arguments)
            if isinstance(leaf, Tensor) and leaf.requires_grad
        ]
        self.cond = [self._arguments[i] for i in self._differentiable]
        """Tensors of the conditioning that require a gradient, as the caller passed them."""
        self.parameters = [p for p in denoiser.parameters() if p.requires_grad]
        """Weights that require a gradient."""
        self._leaves = [tensor.detach().requires_grad_() for tensor in self.cond]
        for i, leaf in zip(self._differentiable, self._leaves, strict=True):
            self._arguments[i] = leaf
        self._environments: dict[int, Environment] = {}
        self.settings = Settings(denoiser).now()
        """What the network's parts were set to before its first call."""
        self._summing: Summing | None = None

    @property
    def targets(self) -> list[Tensor]:
        """The leaves whose gradients `pull_back` gives: conditioning, then weights."""
        return [*self._leaves, *self.parameters]

    @property
    def constants(self) -> list[Tensor]:
        """What is alive whether or not a graph is: conditioning, weights (frozen too), buffers."""
        given = [leaf for leaf in self._arguments if isinstance(leaf, Tensor)]
        return [*given, *self._denoiser.parameters(), *self._denoiser.buffers()]

    @property
    def compiled(self) -> bool:
        """Whether any part of the denoiser is compiled."""
        return self._caller.compiled

    def run(self, k: int, x: Tensor, *, alone: bool = True) -> Tensor:
        """Return the output of call k and record what surrounded it.

        Args:
            k: the call.
            x: its input.
            alone: whether no graph of an earlier call is needed any more.
        """
        self._environments[k] = Environment.now(x.device, self._environments.get(k - 1))
        self._in_float16 |= self._environments[k].in_float16
        return self._call(x, self._timesteps[k], alone=alone)

    def rerun(self, k: int, x: Tensor, t: float | None = None) -> Tensor:
        """Return the output of call k again as it was the first time, or the same at another t."""
        with self._environments[k].restored():
            return self._call(x, self._timesteps[k] if t is None else t, alone=True)

    def _call(self, x: Tensor, t: float, *, alone: bool) -> Tensor:
        cond = pytree.tree_unflatten(self._arguments, self._structure)
        # A cached low-precision copy of a weight, made without a graph, would swallow its gradient.
        torch.clear_autocast_cache()
        try:
            return self._caller(x, t, cond, alone=alone)
        finally:
            torch.clear_autocast_cache()

    def pull_back(
        self, x: Tensor, output: Tensor, adjoint: Tensor, *, input_needed: bool
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """Return the adjoint of the input ``x``, and those of `targets`, of one call.

        Adjoints have any size, and float16 holds nothing below 6e-8. With
        ``adjoint_scale="auto"`` the adjoint goes through a float16 network with its largest entry
        between 1/2 and 1, and the power of two is taken back in float32.

        Within `summing`, those of large weights are None here, for they are in the totals already.
        """
        wanted = [*([x] if input_needed else []), *self.targets]
        gradients: list[Tensor | None] = [None] * len(wanted)
        if wanted and output.requires_grad:
            scaled = self._in_float16 and self._adjoint_scale == "auto"
            exponent = _exponent(adjoint) if scaled else None
            if exponent is not None:
                adjoint = torch.ldexp(adjoint, -exponent)
            with self._summing.pass_of(output, exponent) if self._summing else nullcontext():
                gradients = list(torch.autograd.grad(output, wanted, adjoint, allow_unused=True))
            if self._summing is not None:
                gradients = self._summing.others(gradients, first=len(wanted) - len(self.targets))
            if exponent is not None:
                gradients = [g if g is None else times_power(g, exponent) for g in gradients]
        return gradients.pop(0) if input_needed else None, gradients

    @contextlib.contextmanager
    def summing(self, totals: Totals) -> Iterator[None]:
        """Within this block, let `pull_back` add large weights' gradients to ``totals`` itself."""
        try:
            with Summing(self.parameters, totals, first=len(self._leaves)) as self._summing:
                yield
        finally:
            self._summing = None

    def check_reachable(self, x: Tensor, output: Tensor) -> None:
        """Raise unless the output's graph ends in the input, the conditioning and the weights.

        Raises:
            ValueError: a tensor that requires grad is used but was not passed in, or was passed in
                but is not used: either would silently get no gradient.
        """
        known = {id(tensor) for tensor in (x, *self.targets)}
        reached = leaves_of(output)
        for leaf in reached.values():
            if id(leaf) not in known:
                raise ValueError(
                    f"the network uses a tensor of shape {tuple(leaf.shape)} that requires grad "
                    "but is neither a weight of it nor passed to the sampler, so it cannot receive "
                    "a gradient. Pass it as conditioning (sampler(noise, name=tensor)), make the "
                    "network an nn.Module that owns it, or detach it"
                )
        self._refuse_unused([id(leaf) not in reached for leaf in self._leaves])

    def check_received(self, gradients: Sequence[Tensor | None]) -> None:
        """Raise where no call of a compiled network gave the conditioning a gradient.

        All that goes into a compiled graph looks as if the output depended on it, so
        `check_reachable` cannot tell.

        Args:
            gradients: those of `targets`, after a reverse sweep.
        """
        if self.compiled:
            self._refuse_unused([gradients[i] is None for i in range(len(self._leaves))])

    def _refuse_unused(self, unused: Sequence[bool]) -> None:
        for i, is_unused in zip(self._differentiable, unused, strict=True):
            if is_unused:
                raise ValueError(
                    f"the conditioning {self._names[i]} requires grad, but the network's output "
                    "does not depend on it, so it cannot receive a gradient. Detach it, or see "
                    "why the network leaves it unused"
                )


def _exponent(adjoint: Tensor) -> Tensor:
    """Return the power of two just above the largest entry, as a tensor: nothing is waited for."""
    return torch.frexp(adjoint.detach().abs().amax()).exponent.clamp(-126, 126)
