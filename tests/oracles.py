"""Agreement of our tables with those read from diffusers' schedulers."""

from __future__ import annotations

from typing import Any

import numpy as np

from adjointdpm import Plan, Schedule, solvers

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
"""The noise schedule of Stable Diffusion, as settings of a scheduler."""


def assert_tables_agree(
    solver: str, scheduler: Any, steps: int, step_arguments: Any = None, **more: Any
) -> None:
    """Compare all coefficients on the scheduler's own timesteps, to the float32 of its sigmas."""
    theirs = Plan.from_scheduler(scheduler, steps, step_arguments=step_arguments)
    times = list(dict.fromkeys(theirs.timesteps.tolist()))
    if "final_sigmas_type" in more:
        times.append(0.0)
    schedule = Schedule.from_config(scheduler.config)
    ours = solvers.build(
        solver, schedule, steps, timesteps=times, prediction_type=theirs.prediction_type, **more
    )
    # Draws with no weight are not drawn here; Euler-type schedulers start with sqrt(sigma^2 + 1).
    outputs = 1 + theirs.num_calls
    used = [j for j in range(theirs.table.shape[1]) if j < outputs or theirs.table[:, j].any()]
    table = theirs.table[:, used].copy()
    table[:, 0] *= ours.table[0, 0] / table[0, 0]
    np.testing.assert_allclose(ours.table, table, atol=1e-5 * np.abs(table).max())
