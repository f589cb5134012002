"""Ways to take the gradient through a sampling run, one a module."""

from .backprop import Backprop
from .coarse import CoarseAdjoint
from .continuous import ContinuousAdjoint
from .exact import Exact
from .method import GradientMethod, Run
from .network import Network
from .reversible import Reversible
from .symplectic import Symplectic
from .trajectory import Trajectory, solution_points
from .truncated import Truncated

__all__ = [
    "Backprop",
    "CoarseAdjoint",
    "ContinuousAdjoint",
    "Exact",
    "GradientMethod",
    "Network",
    "Reversible",
    "Run",
    "Symplectic",
    "Trajectory",
    "Truncated",
    "solution_points",
]
