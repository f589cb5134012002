"""Calls of parts of a pipeline that keep no graph and are run again in the backward pass.

It is what `torch.utils.checkpoint` is for. This one leaves a single node in the graph whatever the
part contains, runs forward without any graph, notices weights that were changed in place, lets a
part change a list that it was given (the caches of causal convolutions), and keeps the graphs of
the last calls where memory allows, giving earlier ones up as it goes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..memory import SavedBytes
from .environment import copied
from .fingerprint import Comparison
from .reach import is_looked_into, num_nodes_made, reached_from, strangers
from .replay import Record, Replay
from .tensors import refusing_writes, writes
from .wrappers import is_offloaded, refuse_moving_weights


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
        leaves = (copied(x) if isinstance(x, torch.Generator) else x for x in self.leaves)
        return Nest(tuple(leaves), self.structure)


def _lists(value: Any) -> Iterator[list[Any]]:
    """Yield the lists in a nest of containers."""
    if isinstance(value, list):
        yield value
    items = value.values() if isinstance(value, dict) else value
    if isinstance(value, (dict, list, tuple)):
        for item in items:
            yield from _lists(item)


class Call:
    """One call of a function of tensors and weights, which can be run again.

    Args:
        function: what is run.
        replay: runs it.
        arguments: a nest of tensors and other values.
        what: the call, for messages.
        copies: whether answers are copied, since the function may write where they lie.
        comparisons: of the reverse sweeps that this call is part of.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        replay: Replay,
        arguments: Any,
        *,
        what: str,
        copies: bool,
        comparisons: Comparisons,
    ) -> None:
        self.nest, self.tensors = Nest.of(arguments)
        self.weights = replay.weights
        self.replay = replay
        self.result: Nest | None = None
        self.graph: tuple[list[Tensor], Sequence[Tensor]] | None = None
        """The leaves and outputs of a kept graph."""
        self._function, self._what, self._copies = function, what, copies
        self._comparisons = comparisons
        self._record: Record | None = None
        self._again = self.nest.with_copied_generators()

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Run for the first time, without a graph, and return the output tensors."""
        outputs = self._first(tensors)
        return [x.clone() for x in outputs] if self._copies else list(outputs)

    def run_with_graph(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Run for the first time and keep the graph, which ends in leaves of its own."""
        leaves = self._leaves(tensors)
        with torch.enable_grad(), self.replay.guard.opened():
            nodes = num_nodes_made()
            outputs = self._first(leaves)
            nodes = num_nodes_made() - nodes
        assert self._record is not None
        self._record.num_nodes = nodes
        self.graph = leaves, outputs
        self._search(leaves, outputs, nodes)
        return [x.detach().clone() if self._copies else x.detach() for x in outputs]

    def _first(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        device = next(iter((*tensors, *self.weights.originals))).device

        def function() -> list[Tensor]:
            self.result, outputs = self._flat(self.nest, tensors)
            return outputs

        outputs, self._record = self.replay.first(function, device)
        return outputs

    def _leaves(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        leaves = [x.detach().requires_grad_(x.requires_grad) for x in tensors]
        for leaf in leaves:
            if leaf.requires_grad:
                self.replay.guard.watch(leaf)
        return leaves

    def pull_back(
        self, tensors: Sequence[Tensor], adjoints: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """Return the vector-Jacobian products with the tensors, then with the weights."""
        assert self._record is not None
        self.replay.refuse_changes(self._record)
        graph, self.graph = self.graph, None
        with self.replay.guard.opened():
            leaves, outputs = graph or self._run_again(self._leaves(tensors))
            roots, seeds = _used(outputs, adjoints)
            if roots:
                with self.replay.pulling_back(self._record, self._what):
                    torch.autograd.backward(roots, seeds)
        return [_taken(leaf) for leaf in (*leaves, *self._record.weights.leaves)]

    def pull_back_twice(
        self, tensors: Sequence[Tensor], adjoints: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """Return the same with a graph, for second derivatives; activations are kept."""
        assert self._record is not None
        self.replay.refuse_changes(self._record)
        _, outputs = self._run_again(tensors, attached=True)
        roots, seeds = _used(outputs, adjoints)
        targets = [*tensors, *self._record.weights.differentiated]
        wanted = [x for x in targets if x.requires_grad]
        found: Sequence[Tensor | None] = [None] * len(wanted)
        if roots:
            found = torch.autograd.grad(roots, wanted, seeds, create_graph=True, allow_unused=True)
        gradients = iter(found)
        return [next(gradients) if x.requires_grad else None for x in targets]

    def _run_again(
        self, leaves: Sequence[Tensor], *, attached: bool = False
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        assert self._record is not None

        def function() -> list[Tensor]:
            return self._flat(self._again.with_copied_generators(), leaves)[1]

        comparison = self._comparisons.of_this_pass(self._explain)
        with torch.enable_grad():
            nodes = num_nodes_made()
            outputs = self.replay.again(
                self._record, function, what=self._what, comparison=comparison, attached=attached
            )
            nodes = num_nodes_made() - nodes
        if not attached:
            self.replay.refuse_shortcut(self._record, outputs, nodes, self._what)
            if nodes not in self.replay.searched:
                self._search(leaves, outputs, nodes)
        return leaves, outputs

    def _explain(self) -> str:
        assert self._record is not None
        return self.replay.explain(self._record)

    def _flat(self, nest: Nest, tensors: Sequence[Tensor]) -> tuple[Nest, list[Tensor]]:
        args, kwargs = nest.fill(tensors)
        lists = list(_lists((args, kwargs)))
        before = [list(items) for items in lists]
        written = writes(tensors)
        held = _held(nest)
        wrote = ValueError(
            f"{self._what} wrote into a tensor that was passed to it, so that it cannot be run "
            "again on what it was given. Let it work on a copy (x = x + ..., not x += ...)"
        )
        with refusing_writes(wrote):
            result = self._function(*args, **kwargs)
        if writes(tensors) != written:
            raise wrote
        if held != _held(nest):
            raise ValueError(
                f"{self._what} keeps tensors in an object that was passed to it (a cache of keys "
                "and values), where the gradient cannot follow them. Switch that cache off, or "
                "use adp.Backprop()"
            )
        changed = {
            i: tuple(now)
            for i, (now, old) in enumerate(zip(lists, before, strict=True))
            if len(now) != len(old) or any(a is not b for a, b in zip(now, old, strict=True))
        }
        return Nest.of((result, changed), tensors)

    def _search(self, leaves: Sequence[Tensor], outputs: Sequence[Tensor], nodes: int) -> None:
        """Raise unless a graph ends in the arguments and the weights.

        Raises:
            ValueError: a tensor that requires grad is used and would silently get no gradient.
        """
        reached = reached_from(*outputs).leaves
        self.replay.searched[nodes] = len(reached)
        for leaf in strangers(reached, [*leaves, *self.weights.leaves]):
            raise ValueError(
                f"{self._what} uses a tensor of shape {tuple(leaf.shape)} that requires grad but "
                "is neither a weight of it nor among its arguments, so it cannot receive a "
                "gradient. Pass it as an argument, make it a parameter of the module, or use "
                "adp.Backprop(). (A network that keeps what it computed for its next call, a "
                "cache, does this too: switch it off)"
            )


def _used(
    outputs: Sequence[Tensor], adjoints: Sequence[Tensor | None]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the outputs that adjoints go into, and those adjoints."""
    pairs = zip(outputs, adjoints, strict=True)
    used = [(x, a) for x, a in pairs if a is not None and x.requires_grad]
    return [x for x, _ in used], [a for _, a in used]


def _taken(leaf: Tensor) -> Tensor | None:
    gradient, leaf.grad = leaf.grad, None
    return gradient


def _held(nest: Nest) -> list[int]:
    """Return which tensors are held by objects that are no containers, by identity."""
    found: list[int] = []
    for leaf in nest.leaves:
        if hasattr(leaf, "__dict__") and not isinstance(leaf, Tensor | nn.Module | Slot | type):
            for value in list(vars(leaf).values()):
                found += [id(x) for x in pytree.tree_leaves(value) if isinstance(x, Tensor)]
                for inner in pytree.tree_leaves(value):
                    if hasattr(inner, "__dict__") and not isinstance(inner, Tensor | nn.Module):
                        inside = pytree.tree_leaves(list(vars(inner).values()))
                        found += [id(x) for x in inside if isinstance(x, Tensor)]
    return found


class Comparisons:
    """The comparison of each backward pass that is on its way, read when the pass is over."""

    def __init__(self) -> None:
        self._passes: dict[int, Comparison] = {}

    def of_this_pass(self, explain: Callable[[], str]) -> Comparison:
        """Return the comparison of the backward pass that this thread is in."""
        number = torch._C._current_graph_task_id()
        if number not in self._passes:
            # What an interrupted pass left here is of no use.
            self._passes = {number: Comparison(explain, keeps_inputs=True)}
            if number >= 0:
                engine = torch.autograd.Variable._execution_engine
                engine.queue_callback(lambda: self._finish(number))
        return self._passes[number]

    def _finish(self, number: int) -> None:
        comparison = self._passes.pop(number, None)
        if comparison is not None:
            comparison.raise_if_changed()


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
    def backward(ctx: Any, *adjoints: Tensor | None) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        pull_back = call.pull_back_twice if torch.is_grad_enabled() else call.pull_back
        return None, None, *pull_back(ctx.saved_tensors, adjoints)


class Recompute:
    """Runs functions so that their graphs are made in the backward pass only.

    Args:
        memory_budget: bytes that may be spent on keeping the graphs of the last calls.
        same_environment: whether random state and autocast are as in the first run.
        copies: whether answers are copied, for functions that write where their last answer lies.
    """

    def __init__(
        self, memory_budget: int = 0, *, same_environment: bool = True, copies: bool = False
    ) -> None:
        self._budget = memory_budget
        self._same_environment = same_environment
        self._copies = copies
        self._sizes: dict[int, int] = {}
        self._calls: Counter[int] = Counter()
        self._replays: dict[int, Replay] = {}
        self._kept: deque[tuple[int, Call]] = deque()
        self._comparisons = Comparisons()

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
        if id(owner) not in self._replays:
            self._replays[id(owner)] = Replay(
                owner, same_environment=self._same_environment, moves=is_offloaded(owner)
            )
        call = Call(
            function,
            self._replays[id(owner)],
            (tuple(args), kwargs),
            what=f"call {self._calls[id(owner)]} of {type(owner).__name__}",
            copies=self._copies,
            comparisons=self._comparisons,
        )
        outputs = self._run(call)
        assert call.result is not None
        result, changed = call.result.fill(outputs, call.tensors)
        for i, items in enumerate(_lists((tuple(args), kwargs))):
            if i in changed:
                items[:] = changed[i]
        call.tensors = []
        return result

    def _run(self, call: Call) -> tuple[Tensor, ...]:
        owner = call.replay.owner
        known, size = id(owner) in self._sizes, self._sizes.get(id(owner), 0)
        fits = 0 < size <= self._budget
        look = is_looked_into(self._calls[id(owner)])
        self._calls[id(owner)] += 1
        while self._kept and (fits or not known) and self._kept_bytes() + size > self._budget:
            self._kept.popleft()[1].graph = None
        measured = None
        if self._budget and not known:
            alive = [*call.tensors, *owner.parameters(), *owner.buffers(), *call.weights.leaves]
            measured = SavedBytes(alive)
        with nullcontext() if measured is None else measured.counting():
            outputs = _Recomputed.apply(
                call, look or fits, *call.tensors, *call.weights.differentiated
            )
        if not known:
            size = self._sizes[id(owner)] = 0 if measured is None else measured.total
        # The kept graph of an offloaded module would look for weights that have moved away.
        if 0 < size <= self._budget and not is_offloaded(owner):
            self._kept.append((size, call))
        else:
            call.graph = None
        return outputs

    def _kept_bytes(self) -> int:
        return sum(size for size, call in self._kept if call.graph is not None)
