"""Solvers: functions that fill in plans, in float64, without tensors or state."""

from .adaptive import adaptive
from .form import Form
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
from .torchdiffeq_engine import odeint

__all__ = [
    "CALLS_PER_STEP",
    "DATA_SOLVERS",
    "NOISE_SOLVERS",
    "ODE_SOLVERS",
    "SOLVERS",
    "SPACINGS",
    "STOCHASTIC_SOLVERS",
    "Form",
    "adaptive",
    "build",
    "build_on",
    "grid",
    "integrate",
    "odeint",
]
