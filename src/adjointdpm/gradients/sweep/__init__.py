"""What the methods have in common: the network run again, and a reverse sweep as one node."""

from .checkpoints import Checkpoints, repeated_calls, slots_for, stops
from .network import Caller, Network
from .steps import Step, StepTranspose
from .sweep import Sweep, attach, run_checked, run_plainly
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
    "repeated_calls",
    "run_checked",
    "run_plainly",
    "slots_for",
    "solution_points",
    "stops",
]
