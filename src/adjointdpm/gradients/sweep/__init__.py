"""What the methods have in common: the network run again, and a reverse sweep as one node."""

from .checkpoints import Checkpoints, repeated_calls, slots_for, stops
from .network import Caller, Network, refuse_transforms
from .steps import Step, StepTranspose
from .sweep import Sweep, attach, attach_collecting, run_checked, run_plainly
from .totals import Arrivals, Totals
from .trajectory import FLOW, Trajectory, solution_points

__all__ = [
    "FLOW",
    "Arrivals",
    "Caller",
    "Checkpoints",
    "Network",
    "Step",
    "StepTranspose",
    "Sweep",
    "Totals",
    "Trajectory",
    "attach",
    "attach_collecting",
    "refuse_transforms",
    "repeated_calls",
    "run_checked",
    "run_plainly",
    "slots_for",
    "solution_points",
    "stops",
]
