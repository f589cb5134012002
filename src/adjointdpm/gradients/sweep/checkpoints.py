"""The inputs of all network calls, in reverse order, from fewer stored states than there are calls.

A reverse sweep needs the input of every call, the last one first. With room for a few states only,
the run is started again from a stored one, and further states are stored on the way where that
saves most: binomial checkpointing, which needs the fewest calls that are possible (Griewank and
Walther, "Algorithm 799: revolve", ACM TOMS 26(1), 2000).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import comb

from torch import Tensor

from ...memory import Kept, in_place
from ...plan import Program, State


def repeated_calls(num_calls: int, slots: int) -> int:
    """Return how many calls are run again to bring back all inputs in reverse order.

    The first run goes through all calls and is not counted, and neither are the runs with a graph,
    of which each call needs one. With r the smallest number for which ``C(slots + r, slots)``
    reaches the calls, it is ``r calls - C(slots + r, slots + 1) - (calls - 1)`` (Griewank and
    Walther, eq. 3, without the first sweep).

    Args:
        num_calls: the length of the run.
        slots: how many states are stored at once, with the one at the start.

    >>> [repeated_calls(10, slots) for slots in (1, 2, 3, 10)]
    [36, 11, 6, 0]
    """
    return _advances(num_calls, slots) - max(num_calls - 1, 0)


def _advances(length: int, slots: int) -> int:
    repetitions = 0
    while comb(slots + repetitions, slots) < length:
        repetitions += 1
    return repetitions * length - comb(slots + repetitions, slots + 1)


@lru_cache(maxsize=4096)
def _first_stop(length: int, slots: int) -> int:
    """Return after how many calls the next state is stored, for the fewest calls in all."""

    def cost(calls: int) -> int:
        return calls + _advances(length - calls, slots - 1) + _advances(calls, slots)

    return min(range(1, length), key=cost)


def stops(length: int, slots: int) -> list[int]:
    """Return the calls at which a run of ``length`` calls stores a state beside that at its start.

    >>> stops(10, 3)
    [4, 7]
    """
    found: list[int] = []
    start = 0
    while slots > 1 and length - start > 1:
        start += _first_stop(length - start, slots)
        slots -= 1
        found.append(start)
    return found


def slots_for(program: Program, max_latents: int) -> int:
    """Return how many states, with the noise as the first, fit beside one input of the network."""
    return 1 + (max_latents - 1) // program.state_size


class Checkpoints:
    """Brings back the inputs of network calls from a few stored states.

    Args:
        begin: returns the state at call 0, which is not stored: the noise is alive anyway.
        advance: returns the state at the next call, running the network once.
        slots: how many states there are at once, with that at call 0. The input of the call that
            is differentiated next is held besides.
        keep: how a latent is kept.
    """

    def __init__(
        self,
        begin: Callable[[], State],
        advance: Callable[[State], State],
        slots: int,
        keep: Callable[[Tensor], Kept],
    ) -> None:
        self._begin, self._advance, self._slots, self._keep = begin, advance, slots, keep
        self._stops: list[int] | None = None
        self._stored: dict[int, Callable[[], State]] = {}
        self._last: tuple[int, Kept] | None = None

    def visit(self, state: State, num_calls: int) -> None:
        """Store a state of the first run, if it is one of those to store.

        Args:
            state: the present one.
            num_calls: how many calls the reverse sweep will ask for; fixed after call 0.
        """
        if state.k == 0 or state.k >= num_calls:
            return
        if self._stops is None:
            self._stops = stops(num_calls, self._slots)
        if state.k in self._stops:
            self._store(state)
        elif state.k == num_calls - 1:
            self._last = state.k, self._keep(state.x)

    def input(self, k: int) -> Tensor:
        """Return the input of call k; asked for in reverse order, it costs the fewest calls."""
        if self._last is not None and self._last[0] == k:
            (_, kept), self._last = self._last, None
            return kept()
        start = max((call for call in self._stored if call <= k), default=0)
        state = self._stored[start]() if start else self._begin()
        if start == k:
            self._stored.pop(k, None)
        free = self._slots - len(self._stored)
        to_store = [start + stop for stop in stops(k + 1 - start, free)]
        while state.k < k:
            state = self._advance(state)
            if state.k in to_store and state.k < k:
                self._store(state)
        return state.x

    def _store(self, state: State) -> None:
        x = self._keep(state.x)
        held = {
            value: in_place(tensor) if value.kind == "noise" else self._keep(tensor)
            for value, tensor in state.held.items()
        }
        k = state.k
        self._stored[k] = lambda: State(k, x(), {value: kept() for value, kept in held.items()})
