"""Solvers: functions that fill in plans, in float64, without tensors or state."""

from typing import Any

from ..form import Form
from .embedded import PAIRS, EmbeddedPair, first_guess, first_step_length, step_factor
from .grid import SPACINGS, grid
from .library import (
    CALLS_PER_STEP,
    DATA_SOLVERS,
    NOISE_SOLVERS,
    ODE_SOLVERS,
    SOLVERS,
    STOCHASTIC_SOLVERS,
    build,
    build_on,
    integrate,
)
from .reversible import TABLEAUS, Reversal, reversal
from .runge_kutta import BOGACKI_SHAMPINE, DORMAND_PRINCE, HEUN, Tableau, step


def __getattr__(name: str) -> Any:
    """Hand on what asks the network as well, and so stands above: only when it is asked for."""
    if name == "adaptive":
        from ..adaptive import adaptive

        return adaptive
    if name == "odeint":
        from ..baselines import odeint

        return odeint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "BOGACKI_SHAMPINE",
    "CALLS_PER_STEP",
    "DATA_SOLVERS",
    "DORMAND_PRINCE",
    "HEUN",
    "NOISE_SOLVERS",
    "ODE_SOLVERS",
    "PAIRS",
    "SOLVERS",
    "SPACINGS",
    "STOCHASTIC_SOLVERS",
    "TABLEAUS",
    "EmbeddedPair",
    "Form",
    "Reversal",
    "Tableau",
    "adaptive",
    "build",
    "build_on",
    "first_guess",
    "first_step_length",
    "grid",
    "integrate",
    "odeint",
    "reversal",
    "step",
    "step_factor",
]
