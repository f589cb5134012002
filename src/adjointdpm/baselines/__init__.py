"""Other people's solvers, for comparison."""

from .torchdiffeq import odeint

__all__ = [
    "odeint",
]
