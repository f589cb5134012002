"""Calls that keep no graph and are run again in the backward pass."""

from .call import Recompute, is_offloaded, refuse_moving_weights
from .environment import Environment, is_compiled
from .float16 import through_float16
from .interception import Handler, inherited, intercepted, own_class
from .reach import leaves_of
from .settings import Settings

__all__ = [
    "Environment",
    "Handler",
    "Recompute",
    "Settings",
    "inherited",
    "intercepted",
    "is_compiled",
    "is_offloaded",
    "leaves_of",
    "own_class",
    "refuse_moving_weights",
    "through_float16",
]
