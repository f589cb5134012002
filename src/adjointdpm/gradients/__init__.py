"""Ways to take the gradient through a sampling run, one a module."""

from .accuracy import InaccurateGradientWarning
from .backprop import Backprop
from .coarse import CoarseAdjoint
from .collect import Collect
from .continuous import ContinuousAdjoint
from .exact import Exact
from .method import Cut, GradientMethod, Run
from .observer import Observer
from .reversible import Reversible, run_step, steps_of, walk, walk_back
from .sweep import Network, Step, Trajectory, solution_points
from .symplectic import Symplectic, one_step_parts
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
    "Step",
    "Symplectic",
    "Trajectory",
    "Truncated",
    "one_step_parts",
    "run_step",
    "solution_points",
    "steps_of",
    "walk",
    "walk_back",
]
