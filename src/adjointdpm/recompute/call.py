"""Calls of parts of a pipeline that keep no graph and are run again in the backward pass.

It is what `torch.utils.checkpoint` is for. This one leaves a single node in the graph whatever the
part contains, runs forward without any graph, notices weights that were changed in place, lets a
part change a list that it was given (the caches of causal convolutions), and keeps the graphs of
the last calls where memory allows, giving earlier ones up as it goes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from ..memory import SavedBytes
from .environment import Environment
from .reach import leaves_of
from .settings import Settings, Snapshot


@dataclass(frozen=True)
class Slot:
    """The place of a tensor in a nest: number ``index`` of the inputs or of the outputs."""

    index: int
    of_input: bool = False


@dataclass(frozen=True)
class Nest:
    """A nest of containers with slots in place of its tensors."""

    leaves: tuple[Any, ...]
    structure: pytree.TreeSpec

    @classmethod
    def of(cls, value: Any, inputs: Sequence[Tensor] = ()) -> tuple[Nest, list[Tensor]]:
        """Return the nest of ``value``, and its tensors except those that are ``inputs``."""
        leaves, structure = pytree.tree_flatten(value)
        slots = {id(tensor): Slot(i, of_input=True) for i, tensor in enumerate(inputs)}
        tensors: list[Tensor] = []
        for leaf in leaves:
            if isinstance(leaf, Tensor) and id(leaf) not in slots:
                slots[id(leaf)] = Slot(len(tensors))
                tensors.append(leaf)
        return cls(tuple(slots.get(id(x), x) for x in leaves), structure), tensors

    def fill(self, tensors: Sequence[Tensor], inputs: Sequence[Tensor] = ()) -> Any:
        """Return the nest with tensors in its slots, in containers of its own."""

        def value(leaf: Any) -> Any:
            if not isinstance(leaf, Slot):
                return leaf
            return (inputs if leaf.of_input else tensors)[leaf.index]

        return pytree.tree_unflatten([value(leaf) for leaf in self.leaves], self.structure)

    def with_copied_generators(self) -> Nest:
        """Return the same with random generators that draw what the present ones draw next."""
        leaves = (_copy(x) if isinstance(x, torch.Generator) else x for x in self.leaves)
        return Nest(tuple(leaves), self.structure)


def _copy(generator: torch.Generator) -> torch.Generator:
    return torch.Generator(generator.device).set_state(generator.get_state())


def _lists(value: Any) -> Iterator[list[Any]]:
    """Yield the lists in a nest of containers."""
    if isinstance(value, list):
        yield value
    items = value.values() if isinstance(value, dict) else value
    if isinstance(value, (dict, list, tuple)):
        for item in items:
            yield from _lists(item)


class Call:
    """One call of a function of tensors and weights, which can be run again."""

    def __init__(
        self,
        function: Callable[..., Any],
        owner: nn.Module,
        arguments: Any,
        environment: Environment | None,
        settings: Snapshot,
    ) -> None:
        self.nest, self.tensors = Nest.of(arguments)
        self.weights = [p for p in owner.parameters() if p.requires_grad]
        self.result: Nest | None = None
        self.graph: tuple[list[Tensor], list[Tensor]] | None = None
        """The leaves and outputs of a kept graph."""
        self._function = function
        self.owner = owner
        self._environment = environment
        self._version = _version(owner)
        self.settings = settings
        self._again = self.nest.with_copied_generators()

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Run for the first time, without a graph, and return the output tensors."""
        self.result, outputs = self._flat(self.nest, tensors)
        return outputs

    def run_with_graph(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Run for the first time and keep the graph, which ends in leaves of its own."""
        leaves = [x.detach().requires_grad_(x.requires_grad) for x in tensors]
        with torch.enable_grad():
            self.result, outputs = self._flat(self.nest, leaves)
        self.graph = leaves, outputs
        return [x.detach() for x in outputs]

    def pull_back(
        self, tensors: Sequence[Tensor], adjoints: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """Return the vector-Jacobian products with the tensors, then with the weights."""
        if self._version != _version(self.owner):
            raise RuntimeError(
                f"the weights of {type(self.owner).__name__} were changed in place between "
                "sampling and the backward pass (by an optimizer's step, or by fusing adapters), "
                "so its activations cannot be computed again. Take the gradient first"
            )
        graph, self.graph = self.graph, None
        leaves, outputs = graph or self._run_again(tensors)
        wanted = [x for x in (*leaves, *self.weights) if x.requires_grad]
        pairs = [
            (output, adjoint)
            for output, adjoint in zip(outputs, adjoints, strict=True)
            if adjoint is not None and output.requires_grad
        ]
        found: tuple[Tensor | None, ...] = ()
        if pairs:
            roots, seeds = zip(*pairs, strict=True)
            found = torch.autograd.grad(roots, wanted, seeds, allow_unused=True)
        gradients = iter(found)
        return [
            next(gradients, None) if x.requires_grad else None for x in (*leaves, *self.weights)
        ]

    def _run_again(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        leaves = [x.detach().requires_grad_(x.requires_grad) for x in tensors]
        environment = self._environment.restored() if self._environment else nullcontext()
        with torch.enable_grad(), environment, self.settings.restored():
            _, outputs = self._flat(self._again.with_copied_generators(), leaves)
        return leaves, outputs

    def _flat(self, nest: Nest, tensors: Sequence[Tensor]) -> tuple[Nest, list[Tensor]]:
        args, kwargs = nest.fill(tensors)
        lists = list(_lists((args, kwargs)))
        before = [list(items) for items in lists]
        # A cached low-precision copy of a weight, made without a graph, would swallow its gradient.
        torch.clear_autocast_cache()
        try:
            result = self._function(*args, **kwargs)
        finally:
            torch.clear_autocast_cache()
        changed = {
            i: tuple(now)
            for i, (now, old) in enumerate(zip(lists, before, strict=True))
            if len(now) != len(old) or any(a is not b for a, b in zip(now, old, strict=True))
        }
        return Nest.of((result, changed), tensors)

    def check_reachable(self) -> None:
        """Raise unless the kept graph ends in the arguments and the weights.

        Raises:
            ValueError: a tensor that requires grad is used and would silently get no gradient.
        """
        assert self.graph is not None
        leaves, outputs = self.graph
        known = {id(x) for x in (*leaves, *self.weights)}
        for output in outputs:
            for leaf in leaves_of(output).values():
                if id(leaf) not in known:
                    raise ValueError(
                        f"{type(self.owner).__name__} uses a tensor of shape {tuple(leaf.shape)} "
                        "that requires grad but is neither a weight of it nor among its arguments, "
                        "so it cannot receive a gradient. Pass it as an argument, make it a "
                        "parameter of the module, or use adp.Backprop()"
                    )


def _version(owner: nn.Module) -> int | None:
    """Return a number that grows when a weight is changed in place."""
    if is_offloaded(owner):
        return None
    return sum(p._version for p in owner.parameters() if not p.is_inference())


def is_offloaded(module: nn.Module) -> bool:
    """Say whether accelerate moves weights of the module to the device and away again."""
    return any(hasattr(part, "_hf_hook") for part in module.modules())


class _Recomputed(torch.autograd.Function):
    """The node of one call."""

    @staticmethod
    def forward(ctx: Any, call: Call, keep_graph: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        tensors = tensors[: len(call.tensors)]
        outputs = call.run_with_graph(tensors) if keep_graph else call.run(tensors)
        ctx.call = call
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(x for x in outputs if not x.is_floating_point()))
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *adjoints: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.call.pull_back(ctx.saved_tensors, adjoints)


class Recompute:
    """Runs functions so that their graphs are made in the backward pass only.

    Args:
        memory_budget: bytes that may be spent on keeping the graphs of the last calls.
        same_environment: whether random state and autocast are as in the first run.
    """

    def __init__(self, memory_budget: int = 0, *, same_environment: bool = True) -> None:
        self._budget = memory_budget
        self._same_environment = same_environment
        self._sizes: dict[int, int] = {}
        self._settings: dict[int, Settings] = {}
        self._kept: deque[tuple[int, Call]] = deque()
        self._environment: Environment | None = None

    def __call__(
        self, function: Callable[..., Any], owner: nn.Module, args: Sequence[Any], kwargs: Any
    ) -> Any:
        """Return ``function(*args, **kwargs)``.

        Args:
            function: what is run; it must not depend on anything else that changes.
            owner: the module whose weights it uses.
            args: nests of tensors and other values; lists in them may be changed by the function.
            kwargs: the same, by name.

        Raises:
            ValueError: a tensor that requires grad could not get a gradient.
            RuntimeError: (in the backward pass) an argument or a weight was changed in place.
        """
        inputs = [x for x in pytree.tree_leaves((tuple(args), kwargs)) if isinstance(x, Tensor)]
        weights = list(owner.parameters())
        if not torch.is_grad_enabled() or not any(x.requires_grad for x in (*inputs, *weights)):
            return function(*args, **kwargs)
        refuse_moving_weights(owner)
        device = next(iter((*inputs, *weights))).device
        if self._same_environment:
            self._environment = Environment.now(device, self._environment)
        if id(owner) not in self._settings:
            self._settings[id(owner)] = Settings(owner)
        settings = self._settings[id(owner)].now()
        call = Call(function, owner, (tuple(args), kwargs), self._environment, settings)
        outputs = self._run(call)
        settings.settle()
        assert call.result is not None
        result, changed = call.result.fill(outputs, call.tensors)
        for i, items in enumerate(_lists((tuple(args), kwargs))):
            if i in changed:
                items[:] = changed[i]
        call.tensors = []
        return result

    def _run(self, call: Call) -> tuple[Tensor, ...]:
        known = id(call.owner) in self._sizes
        size = self._sizes.get(id(call.owner), 0)
        keep = not known or 0 < size <= self._budget
        while self._kept and keep and self._kept_bytes() + size > self._budget:
            self._kept.popleft()[1].graph = None
        measured = SavedBytes([*call.tensors, *call.owner.parameters(), *call.owner.buffers()])
        with nullcontext() if known or not self._budget else measured.counting():
            outputs = _Recomputed.apply(call, keep, *call.tensors, *call.weights)
        if not known:
            call.check_reachable()
            size = self._sizes[id(call.owner)] = measured.total
        # The kept graph of an offloaded module would look for weights that have moved away.
        if keep and 0 < size <= self._budget and not is_offloaded(call.owner):
            self._kept.append((size, call))
        else:
            call.graph = None
        return outputs

    def _kept_bytes(self) -> int:
        return sum(size for size, call in self._kept if call.graph is not None)


def refuse_moving_weights(owner: nn.Module) -> None:
    """Raise if weights require grad that accelerate moves to the device and away again."""
    if is_offloaded(owner) and any(p.requires_grad for p in owner.parameters()):
        raise ValueError(
            f"the weights of {type(owner).__name__} require grad but are offloaded: they are moved "
            "away after each call, and a gradient would find them elsewhere. Freeze them "
            "(module.requires_grad_(False)) or keep the pipeline on the device (pipe.to(device))"
        )
