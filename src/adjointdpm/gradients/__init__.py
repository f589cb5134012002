"""Ways to take the gradient through a sampling run, one a module."""

from .backprop import Backprop
from .continuous import ContinuousAdjoint
from .exact import Exact
from .method import GradientMethod

__all__ = ["Backprop", "ContinuousAdjoint", "Exact", "GradientMethod"]
