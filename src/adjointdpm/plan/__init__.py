"""A sampler as a table of numbers: where it comes from, and how it is run."""

from .draws import CounterNoise, Draws
from .execution import Call, State, Transposed, advance, begin, execute, pulled_calls, transpose
from .plan import Plan
from .recurrence import Program, Term, Value
from .scheduler import SchedulerRun, first_timestep

__all__ = [
    "Call",
    "CounterNoise",
    "Draws",
    "Plan",
    "Program",
    "SchedulerRun",
    "State",
    "Term",
    "Transposed",
    "Value",
    "advance",
    "begin",
    "execute",
    "first_timestep",
    "pulled_calls",
    "transpose",
]
