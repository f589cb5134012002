"""The network as the memory-saving methods use it: run without a graph, run again for its VJP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ...denoiser import Denoiser, time_tensor
from ...recompute import (
    Comparison,
    Judge,
    Record,
    Replay,
    is_compiled,
    is_looked_into,
    is_transformed,
    judge_together,
    num_nodes_made,
    power_above,
    reached_from,
    refusing_writes,
    strangers,
    writes,
)
from ..collect import Collector
from .totals import Arrivals


class Caller:
    """Calls a denoiser at a number for a time, compiled or not.

    A denoiser that is compiled as a whole takes its time as a tensor, since a number would be
    compiled in: anew for every step. What it answers is copied: networks may write where their last
    answer lies (CUDA graphs, TensorRT), and a latent is nothing beside a call.

    Args:
        denoiser: the denoiser, or what ``torch.compile`` made of it.
        collector: makes tensors of each call beside the denoiser's output.
    """

    def __init__(self, denoiser: Denoiser, collector: Collector | None = None) -> None:
        self._denoiser = denoiser
        self._collector = collector
        self._whole = is_compiled(denoiser)
        self.compiled = any(is_compiled(module) for module in denoiser.modules())
        """Whether any part of it is compiled."""

    def __call__(
        self, k: int, x: Tensor, t: float | Tensor, cond: dict[str, Any], *, alone: bool
    ) -> list[Tensor]:
        """Return the denoiser's output, and what the collector makes of the call.

        Args:
            k: the number of the call.
            x: its input.
            t: its time.
            cond: its conditioning.
            alone: no graph of an earlier call is needed any more.

        Raises:
            ValueError: the network wrote into what it was given.
        """
        if self.compiled and x.device.type == "cuda" and alone:
            torch.compiler.cudagraph_mark_step_begin()
        given = [x, *(leaf for leaf in pytree.tree_leaves(cond) if isinstance(leaf, Tensor))]
        if is_transformed():
            given = []
        before = writes(given)
        times, answer = time_tensor(t, x) if self._whole else t, None
        with refusing_writes(_wrote("its input x, its conditioning or a weight")):
            if self._collector is None:
                output = self._denoiser(x, times, **cond)
            else:
                output, answer = self._denoiser(x, times, return_answers=True, **cond)
        if (after := writes(given)) != before:
            self._refuse_writing(cond, [a != b for a, b in zip(after, before, strict=True)])
        output = output.clone()
        if self._collector is None:
            return [output]
        return [output, *self._collector.of_call(k, t, x, output, answer)]

    @staticmethod
    def _refuse_writing(cond: dict[str, Any], written: Sequence[bool]) -> None:
        paths = pytree.tree_flatten_with_path(cond)[0]
        names = [pytree.keystr(path) for path, leaf in paths if isinstance(leaf, Tensor)]
        what = ["its input x", *(f"the conditioning {name}" for name in names)]
        which = " and ".join(name for name, is_so in zip(what, written, strict=True) if is_so)
        raise _wrote(which)


def _wrote(where: str) -> ValueError:
    return ValueError(
        f"the network wrote into {where}. The sampler needs it as it was: for later steps, and to "
        "run the call again. Let the network work on a copy (x = x + ..., not x += ...)"
    )


def refuse_transforms() -> None:
    """Raise where autograd's nodes are not seen.

    Raises:
        RuntimeError: a transform of ``torch.func`` is at work.
    """
    if is_transformed():
        raise RuntimeError(
            "a transform of torch.func (or forward-mode differentiation) does not pass a gradient "
            "method of its own: use gradient=Exact() or Backprop(), which give it ordinary "
            "operations and keep the graphs of all calls, or torch.autograd"
        )


class Network:
    """The denoiser of one run, with its conditioning and weights as leaves of their own.

    Args:
        denoiser: the network.
        timesteps: the time of each call.
        cond: conditioning, a nest of tensors.
        adjoint_scale: ``auto`` to scale the adjoint of a float16 network, see `pull_back`.
        tolerance: the largest change of an answer, relative to its norm, when a call is run again;
            by default what rounding explains.
        collector: makes tensors of each call beside the output; where there are several outputs,
            they follow it.
        times: those of the calls, where they receive gradients.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        timesteps: Sequence[float],
        cond: dict[str, Any],
        adjoint_scale: Literal["auto"] | None = "auto",
        tolerance: float | None = None,
        collector: Collector | None = None,
        times: Tensor | None = None,
    ) -> None:
        refuse_transforms()
        self._denoiser = denoiser
        self._caller = Caller(denoiser, collector)
        self._collector = collector
        self._timesteps = timesteps
        self._adjoint_scale = adjoint_scale
        self._tolerance = tolerance
        self._in_float16 = denoiser.network_dtype == torch.float16
        self._replay = Replay(denoiser)
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
        weights = self._replay.weights
        sharded = self._replay.sharded.differentiated
        self.parameters = [*weights.differentiated, *sharded]
        """Weights that require a gradient, as they are found on the modules."""
        self._leaves = [tensor.detach().requires_grad_() for tensor in self.cond]
        for i, leaf in zip(self._differentiable, self._leaves, strict=True):
            self._arguments[i] = leaf
            self._replay.guard.watch(leaf)
        self._given_names = [self._names[i] for i in self._differentiable]
        self._times: Tensor | None = None
        if times is not None:
            self._times = times.detach().requires_grad_()
            self._replay.guard.watch(self._times)
            self.cond.append(times)
            self._leaves.append(self._times)
            self._given_names.append("'timesteps' of the plan")
        self.targets = [*self._leaves, *weights.leaves, *sharded]
        """The leaves whose gradients `pull_back` adds up: of the conditioning, then of weights."""
        self._records: dict[int, Record] = {}
        self._calls: dict[int, int] = {}
        """The call whose graph ends in a leaf, by identity."""
        self._unreached: set[int] | None = None
        self._constants: tuple[list[Tensor], list[int]] = [], []
        self._arrivals: Arrivals | None = None
        self._judges: list[Judge] = []
        self.keeps_inputs = False
        """Whether the inputs of all calls that are run again are alive until the end of a sweep."""
        self._comparison: Comparison | None = None

    @property
    def constants(self) -> list[Tensor]:
        """What is alive whether or not a graph is: conditioning, weights (frozen too), buffers."""
        given = [leaf for leaf in self._arguments if isinstance(leaf, Tensor)]
        own = [*self._denoiser.parameters(), *self._denoiser.buffers()]
        return [*given, *own, *self.targets]

    @property
    def compiled(self) -> bool:
        """Whether any part of the denoiser is compiled."""
        return self._caller.compiled

    @property
    def wrappers(self) -> Sequence[torch.nn.Module]:
        """Data-parallel wrappers within the denoiser."""
        return self._replay.wrappers

    def run(self, k: int, x: Tensor) -> Tensor:
        """Return the output of call k, detached, and record what surrounded it.

        The first calls have a graph, to see where it ends, and some of the others. So has every
        call until each tensor of the conditioning was seen to be used.

        Args:
            k: the call.
            x: its input.
        """
        if is_looked_into(k) or self._unreached:
            return self.run_with_graph(k, x)[1][0].detach()
        return self.run_without_graph(k, x)

    def run_without_graph(self, k: int, x: Tensor) -> Tensor:
        """Return the output of call k, and record what surrounded it."""
        with torch.no_grad():
            return self._first(k, x, alone=True)[0]

    def run_with_graph(
        self, k: int, x: Tensor, *, alone: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """Run call k; return its input, the leaf where the graph ends, and its outputs.

        Args:
            k: the call.
            x: its input.
            alone: whether no graph of an earlier call is needed any more.
        """
        with torch.enable_grad(), self._replay.guard.opened():
            leaf, nodes = self._leaf(k, x), num_nodes_made()
            outputs = self._first(k, leaf, alone=alone)
            self._records[k].num_nodes = num_nodes = num_nodes_made() - nodes
            self._search(k, leaf, outputs, num_nodes)
        return leaf, outputs

    def rerun(self, k: int, x: Tensor, t: float | None = None) -> Tensor:
        """Return the output of call k again as it was the first time, or the same at another t."""
        # As it ran first: with a graph, or compiled for one, kernels may round in another way.
        with torch.set_grad_enabled(self._records[k].num_nodes > 0):
            return self._again(k, x, t)[0].detach()

    def _again(self, k: int, x: Tensor, t: float | None) -> list[Tensor]:
        compare = self._comparison if t is None else None

        def call() -> list[Tensor]:
            return self._call(k, x, self._time(k) if t is None else t, alone=True)

        record = self._records[k]
        return list(self._replay.again(record, call, what=self._what(k), comparison=compare))

    def rerun_with_graph(
        self, k: int, x: Tensor, t: float | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Run call k again; return its input, the leaf where the graph ends, and its outputs."""
        with torch.enable_grad():
            leaf, nodes = self._leaf(k, x), num_nodes_made()
            outputs = self._again(k, leaf, t)
            num_nodes = num_nodes_made() - nodes
            if t is None:
                self._replay.refuse_shortcut(self._records[k], outputs, num_nodes, self._what(k))
            self._search(k, leaf, outputs, num_nodes)
        return leaf, outputs

    def _leaf(self, k: int, x: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        self._calls[id(leaf)] = k
        self._replay.guard.watch(leaf)
        if self._in_cuda_graphs(x):
            leaf.register_hook(torch.clone)
        return leaf

    def _in_cuda_graphs(self, x: Tensor) -> bool:
        # Gradients may lie where the next run of a graph writes.
        return self.compiled and x.device.type == "cuda"

    def _what(self, k: int) -> str:
        return f"network call {k} (timestep {self._timesteps[k]:g})"

    def _first(self, k: int, x: Tensor, *, alone: bool) -> list[Tensor]:
        def call() -> list[Tensor]:
            return self._call(k, x, self._time(k), alone=alone)

        outputs, record = self._replay.first(call, x.device)
        if self._tolerance is not None:
            record.tolerance, record.repeatable = max(record.tolerance, self._tolerance), False
        self._records[k] = record
        assert record.environment is not None
        self._in_float16 |= record.environment.in_float16
        if self._collector is not None:
            self._collector.keep(k, outputs[1:])
        return list(outputs)

    def _time(self, k: int) -> float | Tensor:
        return self._timesteps[k] if self._times is None else self._times[k]

    def _call(self, k: int, x: Tensor, t: float | Tensor, *, alone: bool) -> list[Tensor]:
        cond = pytree.tree_unflatten(self._arguments, self._structure)
        return self._caller(k, x, t, cond, alone=alone)

    def pull_back(
        self,
        x: Tensor,
        outputs: Sequence[Tensor],
        adjoints: Sequence[Tensor | None],
        *,
        input_needed: bool = True,
    ) -> Tensor | None:
        """Return the adjoint of the input ``x`` of one call; those of `targets` are added up.

        Adjoints have any size, and float16 holds nothing below 6e-8. With
        ``adjoint_scale="auto"`` the adjoint goes through a float16 network with its largest entry
        between 1/2 and 1, and the power of two is taken back in float32.

        Args:
            x: the leaf that the graph ends in.
            outputs: of the call; their graph is used up.
            adjoints: of the outputs; None for those that nothing depends on.
            input_needed: whether anybody needs the adjoint of the input.
        """
        assert self._arrivals is not None, "products are taken within reversing()"
        pairs = zip(outputs, adjoints, strict=True)
        used = [(y, a) for y, a in pairs if a is not None and y.requires_grad]
        if not used:
            return None
        exponent = None
        if self._scaled:
            exponent = torch.stack([power_above(a) for _, a in used]).amax()
            used = [(y, torch.ldexp(a, -exponent)) for y, a in used]
        self._arrivals.exponent = exponent
        k = self._calls.pop(id(x))
        with self._replay.pulling_back(self._records[k], self._what(k)):
            torch.autograd.backward([y for y, _ in used], [a for _, a in used])
        pulled, x.grad = x.grad, None
        if pulled is None or not input_needed:
            return None
        return pulled if exponent is None else torch.ldexp(pulled, exponent)

    @property
    def _scaled(self) -> bool:
        return self._in_float16 and self._adjoint_scale == "auto"

    def gradients(self) -> list[Tensor | None]:
        """Return what `pull_back` has added up for `targets` since the last time."""
        assert self._arrivals is not None
        return self._arrivals.take()

    @contextlib.contextmanager
    def reversing(self) -> Iterator[None]:
        """Take products within this block, at whose end the calls that were run again are judged.

        Raises:
            RuntimeError: weights or conditioning were changed since sampling.
            RerunError: a call gave another answer than the first time.
        """
        self._refuse_changes()
        records, replay = self._records, self._replay
        self._comparison = Comparison(
            lambda: replay.explain(records[max(records)]), self.keeps_inputs
        )
        copies = any(self._in_cuda_graphs(leaf) for leaf in self.targets)
        self._arrivals = Arrivals(self.targets, scaled=self._scaled, copies=copies)
        self._judges = []
        try:
            with self._replay.guard.opened():
                yield
            judge_together([*self._judges, self._comparison])
        finally:
            self._judges, self._comparison = [], None
            self._arrivals.close()
            self._arrivals = None

    def judge_later(self, judge: Judge) -> None:
        """Look at numbers at the end of `reversing`, together with all others."""
        self._judges.append(judge)

    def judge_now(self) -> None:
        """Look at the numbers that wait for the end, before something else is said of them."""
        judge_together(self._judges)
        self._judges = []

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Leave buffers and settings at the end of a block as they were at its start."""
        with self._replay.undisturbed():
            yield

    def finish(self) -> None:
        """Take note that the run is over.

        Raises:
            ValueError: no call used a tensor of the conditioning that requires grad, or sharded
                weights are to be trained in float16.
        """
        if self._scaled and self._replay.sharded.differentiated:
            raise ValueError(
                "sharded weights cannot be trained in float16: each process scales the adjoint of "
                "a call as it needs, but FSDP sums gradients over the processes. Run the network "
                "in bfloat16 or float32"
            )
        if self._unreached and not self.compiled:
            self._refuse_unused(self._unreached)
        constants = [x for x in self._arguments if isinstance(x, Tensor) and not x.requires_grad]
        self._constants = constants, writes(constants)

    def _refuse_changes(self) -> None:
        if self._records:
            self._replay.refuse_changes(self._records[max(self._records)])
        constants, before = self._constants
        if writes(constants) != before:
            raise RuntimeError(
                "conditioning was changed in place between sampling and the backward pass, so that "
                "network calls cannot be run again. Take the gradient first, or pass a copy"
            )

    def _search(self, k: int, x: Tensor, outputs: Sequence[Tensor], nodes: int) -> None:
        """Raise unless the outputs' graph ends in the input, the conditioning and the weights.

        Graphs with as many nodes as one that was searched are taken for the same.

        Raises:
            ValueError: a tensor that requires grad is used but was not passed in, so that it would
                silently get no gradient.
        """
        if nodes in self._replay.searched and not self._unreached:
            return
        reached = reached_from(*outputs).leaves
        self._replay.searched[nodes] = len(reached)
        for leaf in strangers(reached, [x, *self.targets, *self._replay.sharded.gathered]):
            raise ValueError(
                f"the network uses (in call {k}) a tensor of shape {tuple(leaf.shape)} that "
                "requires grad but is neither a weight of it nor passed to the sampler, so it "
                "cannot receive a gradient. Pass it as conditioning (sampler(noise, name=tensor)), "
                "make the network an nn.Module that owns it, or detach it. If it is something that "
                "the network kept from an earlier call (a cache), switch that off or use "
                "gradient=adp.Backprop()"
            )
        unused = {i for i, leaf in enumerate(self._leaves) if id(leaf) not in reached}
        self._unreached = unused if self._unreached is None else self._unreached & unused

    def check_received(self, gradients: Sequence[Tensor | None]) -> None:
        """Raise where no call of a compiled network gave the conditioning a gradient.

        All that goes into a compiled graph looks as if the output depended on it, so no search can
        tell.

        Args:
            gradients: those of `targets`, after a reverse sweep.
        """
        if self.compiled:
            self._refuse_unused({i for i in range(len(self._leaves)) if gradients[i] is None})

    def target_name(self, i: int) -> str:
        """Return what one of `targets` is, for messages."""
        if i < len(self._leaves):
            return f"the conditioning {self._given_names[i]}"
        weight = self.parameters[i - len(self._leaves)]
        names = (name for name, w in self._denoiser.named_parameters() if w is weight)
        return f"the weight {next(names, tuple(weight.shape))}"

    def _refuse_unused(self, unused: set[int]) -> None:
        for i in sorted(unused):
            raise ValueError(
                f"the conditioning {self._given_names[i]} requires grad, but the "
                "network's output does not depend on it, so it cannot receive a gradient. Detach "
                "it, or see why the network leaves it unused"
            )
