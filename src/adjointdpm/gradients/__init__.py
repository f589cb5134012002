"""Ways to take the gradient through a sampling run, one a module."""

from .accuracy import InaccurateGradientWarning
from .backprop import Backprop
from .coarse import CoarseAdjoint
from .collect import Collect
from .continuous import ContinuousAdjoint
from .exact import Exact
from .method import Cut, GradientMethod, Run
from .observer import Observer
from .reversible import Reversible
from .sweep import Network, Trajectory, solution_points
from .symplectic import Symplectic
from .truncated import Truncated

__all__ = [
    "Backprop",
    "CoarseAdjoint",
    "Collect",
    "ContinuousAdjoint",
    "Cut",
    "Exact",
    "GradientMethod",
    "InaccurateGradientWarning",
    "Network",
    "Observer",
    "Reversible",
    "Run",
    "Symplectic",
    "Trajectory",
    "Truncated",
    "solution_points",
]
