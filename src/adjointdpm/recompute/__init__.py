"""Calls that keep no graph and are run again in the backward pass."""

from .call import Recompute
from .environment import Environment, copied, is_compiled, is_transformed
from .fingerprint import Comparison, RerunError
from .float16 import power_above, through_float16, times_power
from .interception import Handler, inherited, intercepted, own_class
from .reach import is_looked_into, num_nodes_made, reached_from, strangers
from .replay import Record, Replay
from .settings import Settings
from .tensors import refusing_writes, writes
from .verdict import Judge, judge_together
from .wrappers import (
    announced,
    diffusers_hooks,
    is_offloaded,
    refuse_caches,
    refuse_moving_weights,
)

__all__ = [
    "Comparison",
    "Environment",
    "Handler",
    "Judge",
    "Recompute",
    "Record",
    "Replay",
    "RerunError",
    "Settings",
    "announced",
    "copied",
    "diffusers_hooks",
    "inherited",
    "intercepted",
    "is_compiled",
    "is_looked_into",
    "is_offloaded",
    "is_transformed",
    "judge_together",
    "num_nodes_made",
    "own_class",
    "power_above",
    "reached_from",
    "refuse_caches",
    "refuse_moving_weights",
    "refusing_writes",
    "strangers",
    "through_float16",
    "times_power",
    "writes",
]
