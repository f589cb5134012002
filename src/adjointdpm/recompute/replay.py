"""Calls of a module that are run once without a graph, and again with one.

The one mechanism under samplers (`adjointdpm.gradients`) and under pipelines and decoders (`call`).
What a call finds when it runs first, it finds again: the weights, the buffers, the settings,
autocast and the random state. Its graph ends in leaves that stand in for the weights, so that the
weights themselves see nothing but the total. What it answers is compared with its first answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..sharded import reshard
from .environment import Drawing, Environment, drawing_alone, is_compiled
from .fingerprint import Comparison, Fingerprints, RerunError, coarsest, tolerance_of
from .guard import Guard
from .reach import num_nodes_made, reached_from
from .settings import Settings
from .sharding import ShardedWeights
from .tensors import Places, StandIns, in_their_places, versions
from .wrappers import parallel_wrappers, passed_on, refuse_caches

_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


def _lock_of(owner: nn.Module) -> Any:
    """Return the lock of the part that owns the first weight: wrappers of one network share it."""
    first = next((part for part in owner.modules() if part._parameters), owner)
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(first, threading.RLock())


@dataclass
class Record:
    """What a call found when it ran first, and what it answered.

    Args:
        environment: autocast and random state; None where they are of no interest.
        settings: see `Settings.now`.
        weights: what stood in the weights' places, with leaves for those that require grad.
        buffers: copies of the buffers that calls change.
        versions: of the weights, of the other buffers, and of what else the call read.
        fingerprint: of the answer.
        tolerance: the largest change of the answer that is taken for rounding.
        num_nodes: of the graph, where it had one.
        repeatable: whether a rerun is given the same input to the last bit.
    """

    environment: Environment | None
    settings: list[Any]
    weights: StandIns
    buffers: dict[int, Tensor]
    versions: list[tuple[int, torch.dtype]]
    fingerprint: Tensor
    tolerance: float
    num_nodes: int = 0
    repeatable: bool = True


class Replay:
    """Runs calls of a module, and runs them again.

    Args:
        owner: the module. Its structure must stay as it is.
        same_environment: whether random state and autocast are those of the first run.
        moves: whether weights are moved to the device and away again, call by call; what they
            held cannot be checked then.
    """

    def __init__(
        self, owner: nn.Module, *, same_environment: bool = True, moves: bool = False
    ) -> None:
        refuse_caches(owner)
        reshard(owner)
        self.guard = Guard()
        self.owner = owner
        self._same_environment = same_environment
        self._moves = moves
        self._settings = Settings(owner)
        self._places = Places(owner)
        self.sharded = ShardedWeights(owner, self._places.weights)
        self._places.leave_alone(self.sharded.places)
        weights, self._buffers = self._places.tensors()
        self._weights = StandIns(weights)
        self._guard_weights()
        self._changing: list[int] | None = None
        self._fingerprints = Fingerprints()
        self._lock = _lock_of(owner)
        self._draws: bool | None = None
        self._watched = 0
        self._quiet = 0
        self._compiled = any(is_compiled(part) for part in owner.modules())
        self.wrappers = parallel_wrappers(owner)
        self.searched: dict[int, int] = {}
        """The number of leaves of graphs whose ends were looked at, by their number of nodes."""

    @property
    def weights(self) -> StandIns:
        """The weights as they are found now, and what stands in for those that require grad."""
        found, self._buffers = self._places.tensors()
        known = self._weights
        same = all(
            a is b and a.requires_grad == (b is not c)
            for a, b, c in zip(found, known.originals, known.tensors, strict=True)
        )
        if not same:
            self._weights = StandIns(found)
            self._guard_weights()
        return self._weights

    def _guard_weights(self) -> None:
        # A few of them tell as much as all: who runs the module meanwhile uses each.
        leaves = self._weights.leaves
        for leaf in {id(x): x for x in leaves[:1] + leaves[len(leaves) // 2 :][:1]}.values():
            self.guard.watch(leaf)

    def first(
        self, function: Callable[[], Sequence[Tensor]], device: torch.device
    ) -> tuple[Sequence[Tensor], Record]:
        """Run a call for the first time.

        With gradients on, it keeps its graph, which ends in the weights' stand-ins.

        Args:
            function: the call; it returns the tensors that it answers with.
            device: of its tensors.
        """
        with ExitStack() as stack:
            stack.enter_context(self._lock)
            weights = self.weights
            settings = self._settings.now()
            buffers = self._buffers_before()
            environment = None
            if self._same_environment:
                if self._quiet < 2:
                    # Until two calls drew nothing, the next may.
                    stack.enter_context(drawing_alone())
                environment = Environment.now(device)
            if torch.is_grad_enabled():
                stack.enter_context(in_their_places(self._places.weights, weights.tensors))
            with self._watching_draws():
                outputs = self._call(function)
            if environment is not None:
                draws = self._draws is not False
                environment = environment.settled() if draws else environment.without_draws()
                self._quiet = 0 if environment.random_states else self._quiet + 1
            buffers = self._changed(buffers)
        return outputs, Record(
            environment,
            settings,
            weights,
            buffers,
            self._versions(weights),
            self._fingerprints(outputs),
            self._tolerance(outputs, environment),
        )

    def again(
        self,
        record: Record,
        function: Callable[[], Sequence[Tensor]],
        *,
        what: str = "",
        comparison: Comparison | None = None,
        attached: bool = False,
    ) -> Sequence[Tensor]:
        """Run a call again as it was, with or without a graph.

        Args:
            record: of its first run.
            function: the call.
            what: the call, for messages.
            comparison: takes the fingerprints; None for a call that is given other tensors.
            attached: whether the graph ends in the weights themselves.
        """
        with ExitStack() as stack:
            if record.environment is not None:
                stack.enter_context(record.environment.restored())
            stack.enter_context(self.as_it_was(record, attached=attached))
            try:
                outputs = self._call(function)
            except (KeyError, AttributeError, TypeError, IndexError) as error:
                error.add_note(
                    f"{what or 'The call'} ran without this error the first time, and failed when "
                    "it was run again for the gradient. If the network keeps something from call "
                    "to call (a cache), switch that off or use adp.Backprop()"
                )
                raise
        if comparison is not None:
            again, repeat = self._fingerprints(outputs), partial(self._repeat, record, function)
            comparison.add(
                what,
                record.fingerprint,
                again,
                record.tolerance,
                repeat if record.repeatable and not self._moves else None,
            )
        return outputs

    def _repeat(self, record: Record, function: Callable[[], Sequence[Tensor]]) -> Tensor:
        """Return the fingerprint of a call that is run once more, in the mode of its first run."""
        with torch.set_grad_enabled(record.num_nodes > 0), self.guard.opened():
            return self._fingerprints(self.again(record, function))

    @contextmanager
    def as_it_was(self, record: Record, *, attached: bool = False) -> Iterator[None]:
        """Let the module be in a block as it was at a call, with stand-ins for its weights.

        The graph of a call is differentiated in such a block too: checkpoints within a network run
        parts of it again then.
        """
        weights = record.weights.originals if attached else record.weights.as_recorded()
        with (
            self._lock,
            self._settings.restored(record.settings),
            in_their_places(self._places.weights, weights),
            self._with_buffers(record),
        ):
            yield

    @contextmanager
    def _watching_draws(self) -> Iterator[None]:
        """Find out, where other threads may draw as well, whether the first calls draw."""
        if self._watched > 1 or self._compiled or threading.active_count() == 1:
            yield
            return
        with Drawing() as drawing:
            yield
        self._watched += 1
        self._draws = bool(self._draws) or drawing.found

    def _call(self, function: Callable[[], Sequence[Tensor]]) -> Sequence[Tensor]:
        # A cached low-precision copy of a weight, made without a graph, would swallow its gradient.
        torch.clear_autocast_cache()
        try:
            with passed_on(self.wrappers), self.sharded.freed_after_use():
                return function()
        finally:
            torch.clear_autocast_cache()

    def _buffers_before(self) -> dict[int, Tensor]:
        """Return copies of buffers that the call may change: all, before the first of all calls."""
        which = range(len(self._buffers)) if self._changing is None else self._changing
        self._before = versions(self._buffers)
        return {i: self._buffers[i].detach().clone() for i in which}

    def _changed(self, copies: dict[int, Tensor]) -> dict[int, Tensor]:
        """Return the copies of buffers that calls change, now that one has run."""
        _, now = self._places.tensors()
        pairs = zip(now, self._buffers, versions(now), self._before, strict=True)
        changed = [i for i, (a, b, new, old) in enumerate(pairs) if a is not b or new != old]
        known = self._places.statistics if self._changing is None else self._changing
        self._changing = sorted({*known, *changed})
        self._buffers = now
        return {i: copies[i] for i in self._changing if i in copies}

    @contextmanager
    def _with_buffers(self, record: Record) -> Iterator[None]:
        # Copies of the copies: the call is going to change them, and may be run once more.
        places = [self._places.buffers[i] for i in self._changing or ()]
        tensors = [
            record.buffers.get(i, self._buffers[i]).detach().clone() for i in self._changing or ()
        ]
        with in_their_places(places, tensors):
            yield

    def _versions(self, weights: StandIns) -> list[tuple[int, torch.dtype]]:
        if self._moves:
            return []
        return versions([*weights.originals, *self._buffers, *self.sharded.tensors])

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Leave buffers and settings at the end of a block as they were at its start."""
        _, buffers = self._places.tensors()
        copies = [buffer.detach().clone() for buffer in buffers]
        now = self._settings.now()
        with self._settings.restored(now), in_their_places(self._places.buffers, copies):
            yield

    def changed_since(self, record: Record) -> list[str]:
        """Return the names of weights and buffers that were written into, or cast, since a call."""
        if self._moves:
            return []
        tensors = [*record.weights.originals, *self._buffers, *self.sharded.tensors]
        places = (*self._places.weights, *self._places.buffers, *self.sharded.places)
        names = [place.name for place in places]
        now, own = versions(tensors), len(record.weights.originals)
        changing = {own + i for i in self._changing or ()}
        return [
            name
            for i, (name, new, old) in enumerate(zip(names, now, record.versions, strict=True))
            if new != old and i not in changing
        ]

    def refuse_changes(self, record: Record) -> None:
        """Raise RuntimeError if a weight or a buffer was changed since a call.

        Raises:
            RuntimeError: the call cannot be run again.
        """
        if changed := self.changed_since(record):
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise RuntimeError(
                f"the weights of {type(self.owner).__name__} were changed in place between "
                "sampling and the backward pass (by an optimizer's step, by loading or casting "
                f"weights, or by fusing adapters), so that its calls cannot be run again: "
                f"{changed[0]}{more}. Take the gradient first"
            )

    def refuse_shortcut(
        self, record: Record, outputs: Sequence[Tensor], num_nodes: int, what: str
    ) -> None:
        """Raise if a call whose graph was seen took something that it had kept, when run again.

        The answer may be the same, but the gradient ends there, or goes on in another call's graph.
        Another kernel may have fewer nodes too.

        Args:
            record: of its first run.
            outputs: of its second run.
            num_nodes: that were made for them.
            what: the call, for the message.

        Raises:
            RerunError: part of the graph was missing.
        """
        if num_nodes >= record.num_nodes:
            return
        reached = reached_from(*outputs)
        expected = self.searched.get(record.num_nodes, 0)
        if reached.oldest < num_nodes_made() - num_nodes or len(reached.leaves) < expected:
            raise RerunError(
                f"{what} skipped a part of its computation when it was run again for the gradient "
                f"(its graph has {num_nodes} nodes, and had {record.num_nodes}): it takes the "
                "result from something that it kept. Switch that cache off, or use adp.Backprop()"
            )

    @contextmanager
    def pulling_back(self, record: Record, what: str) -> Iterator[None]:
        """Differentiate the graph of a call within a block.

        Raises:
            RerunError: calls share a part of their graphs.
        """
        try:
            with self.as_it_was(record):
                yield
        except RuntimeError as error:
            if "backward through the graph a second time" not in str(error):
                raise
            raise RerunError(
                f"{what} shares a part of its graph with another call: the network keeps something "
                "that it computed from the weights or the conditioning (a cache). Switch that off, "
                "compute it before and pass it as conditioning, or use adp.Backprop()"
            ) from error

    def explain(self, record: Record) -> str:
        """Say what may be the cause of another answer, and what helps."""
        since = self._settings.changed_since(record.settings)
        noted = "nothing that leaves a trace was changed since"
        if since:
            noted = f"changed since, and put back for this, was {', '.join(since[:3])}"
        return (
            f"What is known: {noted}. Likely causes: the network gives different answers to the "
            "same input (it keeps features from call to call, counts its calls, or draws from "
            "NumPy, Python or a generator of its own); or something was changed that leaves no "
            "trace (weights by a fused optimizer's step or through .data, a hook, a patched "
            "method). What helps: take the gradient before anything is changed; switch caches "
            "off; pass generators in as arguments; adp.Exact(memory_budget=...) where all graphs "
            "fit, so that no call is run again; or adp.Backprop()"
        )

    def _tolerance(self, outputs: Sequence[Tensor], environment: Environment | None) -> float:
        gathered = (weight.dtype for weight in self.sharded.gathered)
        dtypes = {*self._weights.dtypes, *gathered, *(output.dtype for output in outputs)}
        return tolerance_of(coarsest(*dtypes, environment.dtype if environment else None))
