"""A sampler as a table of numbers: where it comes from, and how it is run."""

from .draws import CounterNoise, Draws
from .execution import (
    Call,
    State,
    TableGradient,
    Transposed,
    advance,
    begin,
    execute,
    execute_dense,
    pulled_calls,
    transpose,
)
from .plan import Plan
from .recurrence import Program, Row, Term, Value
from .scheduler import SchedulerRun, first_timestep
from .variables import PlanVariables

__all__ = [
    "Call",
    "CounterNoise",
    "Draws",
    "Plan",
    "PlanVariables",
    "Program",
    "Row",
    "SchedulerRun",
    "State",
    "TableGradient",
    "Term",
    "Transposed",
    "Value",
    "advance",
    "begin",
    "execute",
    "execute_dense",
    "first_timestep",
    "pulled_calls",
    "transpose",
]
