"""What people do with a gradient through sampling: one config and one run function each."""

from .optimize import History, OptimizeConfig, optimize
from .typical import project_to_typical

__all__ = ["History", "OptimizeConfig", "optimize", "project_to_typical"]
