"""Explicit Runge-Kutta methods, on rows of coefficients (Hairer, Norsett, Wanner, II.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from .tape import Row


class Drift(Protocol):
    """The right side of an ODE, ``drift(u, tau)``; ``starts_step`` marks solution values."""

    def __call__(self, u: Row, tau: float, *, starts_step: bool = True) -> Row: ...  # noqa: D102


@dataclass(frozen=True)
class Tableau:
    """A Butcher tableau: nodes ``c``, weights ``b`` and strictly lower triangular ``a``."""

    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]

    @property
    def c(self) -> tuple[float, ...]:
        """The nodes: row sums of ``a``."""
        return tuple(sum(row) for row in self.a)


EULER = Tableau(1, ((),), (1.0,))
HEUN = Tableau(2, ((), (1.0,)), (0.5, 0.5))
MIDPOINT = Tableau(2, ((), (0.5,)), (0.0, 1.0))
RALSTON = Tableau(2, ((), (2 / 3,)), (1 / 4, 3 / 4))
BOGACKI_SHAMPINE = Tableau(3, ((), (1 / 2,), (0.0, 3 / 4)), (2 / 9, 1 / 3, 4 / 9))
RK4 = Tableau(4, ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
DORMAND_PRINCE = Tableau(
    5,
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
"""The fifth-order half of Dormand and Prince's pair (Hairer et al., II.5, table 5.2)."""


def step(
    tableau: Tableau, drift: Drift, u: Row, tau: float, h: float, first: Row | None = None
) -> tuple[Row, list[Row]]:
    """Take one step of length ``h`` from ``u`` at ``tau``; return its end and its slopes.

    Args:
        tableau: the method.
        drift: the right side.
        u: state at ``tau``.
        tau: where the step starts.
        h: its length.
        first: the slope at the start, where it is known already.
    """
    slopes: list[Row] = [] if first is None else [first]
    for weights, c in list(zip(tableau.a, tableau.c, strict=True))[len(slopes) :]:
        stage = u + h * sum(w * k for w, k in zip(weights, slopes, strict=True))
        slopes.append(drift(stage, tau + c * h, starts_step=not slopes))
    return u + h * sum(w * k for w, k in zip(tableau.b, slopes, strict=True)), slopes


def runge_kutta(
    tableau: Tableau, drift: Drift, taus: Sequence[float], u: Row, *, open_end: bool = False
) -> Row:
    """Integrate ``du/dtau = drift(u, tau)`` over the grid ``taus``.

    Args:
        tableau: the method.
        drift: the right side.
        taus: grid from start to end.
        u: state at the start.
        open_end: the last grid point is the clean image, where no network is to be asked: the last
            step is an Euler step, as in EDM (arXiv 2206.00364, algorithm 1).
    """
    for i, (tau, following) in enumerate(pairwise(taus)):
        last = open_end and i == len(taus) - 2
        u, _ = step(EULER if last else tableau, drift, u, tau, following - tau)
    return u
