"""Solvers: functions that fill in plans, in float64, without tensors or state."""

from typing import Any

from ..form import Form
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
    "SOLVERS",
    "SPACINGS",
    "STOCHASTIC_SOLVERS",
    "TABLEAUS",
    "Form",
    "Reversal",
    "Tableau",
    "adaptive",
    "build",
    "build_on",
    "grid",
    "integrate",
    "odeint",
    "reversal",
    "step",
]
