"""Reading the table of coefficients out of a diffusers scheduler, by running its own ``step``.

Each network input and the sample is a linear combination of the initial noise, the network outputs
and the drawn noises. Run on one-hot vectors in place of those, a scheduler writes down its own
coefficients. Nothing of it is reimplemented, and a ``step`` that is not linear is found out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .scheduler import SchedulerRun

LINEARITY_TOLERANCE = 1e-4
NUM_CHECKS = 16
"""How many random numbers stand in a latent beside the one-hot vector."""
SIZE = 1e4
"""How large they are."""
NUM_CALLS_ALONE = 16
"""Over how many network calls they run once more without it."""

_DRAWING = frozenset({torch.randn, torch.randn_like})
_CASTING = frozenset({Tensor.to, Tensor.float, Tensor.half})


@dataclass(frozen=True)
class Probe:
    """What a scheduler says of itself.

    Args:
        timesteps: the time that the network is given, for each call.
        table: (num_calls + 1, 1 + num_calls + num_draws), float64.
        num_draws: how many noises the scheduler draws.
        prediction_type: what it takes the network's output for, where its config says so.
    """

    timesteps: np.ndarray
    table: np.ndarray
    num_draws: int
    prediction_type: str | None


class _Instrument(TorchFunctionMode):
    """Hands out prepared tensors where the scheduler draws noise, and keeps float64 throughout.

    The mode is local to the thread and to the block, so nothing of torch or diffusers is patched.
    """

    def __init__(self, shape: torch.Size, draw: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.shape, self.draw, self.num_draws = shape, draw, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _DRAWING:
            self.num_draws += 1
            return self.draw(self.num_draws - 1)
        if func in _CASTING and args[0].shape == self.shape:
            # Some schedulers cast to float32 inside `step`: the coefficients are wanted unrounded.
            return args[0]
        return func(*args, **(kwargs or {}))


def _prediction_type(scheduler: Any) -> str | None:
    """Return what the scheduler takes the network's output for, where it is one of the four words.

    A config that was made from another scheduler's can carry a ``prediction_type`` that this class
    never looks at.
    """
    config, settings = scheduler.config, inspect.signature(type(scheduler).__init__).parameters
    if "sigma_data" in config:
        return None  # EDM's preconditioned output is none of the four
    if "prediction_type" in settings:
        return str(config["prediction_type"])
    flow = "shift" in settings and not config.get("invert_sigmas")
    return "flow_prediction" if flow else None


def read_scheduler(scheduler: Any, *steps: Any, **arguments: Any) -> Probe:
    """Read off the coefficients of a scheduler.

    Args:
        scheduler: what is read.
        *steps: as for `SchedulerRun`.
        **arguments: as for `SchedulerRun`.

    Raises:
        ValueError: the scheduler cannot be driven as asked, or its ``step`` is not linear in the
            network's output.
    """
    run = SchedulerRun(scheduler, *steps, **arguments)
    # Nearly all draw once a step or never; a run more finds the number of the others.
    guess = run.num_calls if run.takes_generator else 0
    try:
        rows, num_draws, numbers = _on_units(run, guess)
        if num_draws > guess:
            rows, _, numbers = _on_units(run, num_draws)
    except ValueError as error:
        raise _refusal(scheduler) or error from error.__cause__
    columns = 1 + run.num_calls + num_draws
    table, found = rows[:, :columns].numpy(), rows[:, -NUM_CHECKS:]
    _check_finite(run, scheduler, table)
    _check_linear(run, scheduler, table, numbers[:columns], found)
    times = run.timesteps.to(torch.float64).numpy()
    return Probe(times, table, num_draws, _prediction_type(scheduler))


def _refusal(scheduler: Any) -> ValueError | None:
    """Return what in a scheduler's config makes ``step`` more than a linear combination."""
    name, config = type(scheduler).__name__, scheduler.config
    for setting, denoiser_setting in [
        ("clip_sample", "clip_sample=True"),
        ("clip_denoised", "clip_sample=True"),
        ("thresholding", "thresholding=True"),
    ]:
        if config.get(setting):
            return ValueError(
                f"{name} has {setting}=True, which is not linear in the network's output. Make the "
                f"plan from {name}.from_config(scheduler.config, {setting}=False) and clip x_0 in "
                f"the denoiser: Denoiser(..., {denoiser_setting})"
            )
    variance = config.get("variance_type")
    if not str(variance).startswith("learned"):
        return None
    return ValueError(
        f"{name} has variance_type={variance!r}: the noise that it draws is scaled by the "
        f"network's output, so there is no table of numbers for it. Make the plan from {name}."
        "from_config(scheduler.config, variance_type=...) with a fixed variance and cut the "
        "predicted variance off the network's output, or differentiate the pipeline's own loop "
        "with adjointdpm.differentiable(pipe)"
    )


def _instrumented(run: SchedulerRun, values: Tensor, num_calls: int) -> tuple[Tensor, int]:
    """Run on given values for the noise, the outputs and the draws; count the draws.

    Args:
        run: what runs.
        values: (1 + outputs + draws, numbers); draws beyond them are zero.
        num_calls: after how many network calls to stop.
    """
    latents, first_draw = values[:, None, None, None, :], 1 + run.num_calls

    def draw(number: int) -> Tensor:
        known = first_draw + number < len(latents)
        return latents[first_draw + number] if known else 0 * latents[0]

    with _Instrument(latents[0].shape, draw) as instrument:
        rows = run(latents[0], lambda k, _: latents[1 + k], num_calls=num_calls)
    return torch.cat([row.reshape(1, -1) for row in rows]), instrument.num_draws


def _on_units(run: SchedulerRun, num_draws: int) -> tuple[Tensor, int, Tensor]:
    """Run on one-hot vectors, and beside them on random numbers far outside [-1, 1]."""
    count, generator = 1 + run.num_calls + num_draws, torch.Generator().manual_seed(0)
    numbers = SIZE * torch.randn(count, NUM_CHECKS, dtype=torch.float64, generator=generator)
    units = torch.eye(count, dtype=torch.float64)
    return *_instrumented(run, torch.cat([units, numbers], 1), run.num_calls), numbers


def _check_finite(run: SchedulerRun, scheduler: Any, table: np.ndarray) -> None:
    finite = np.isfinite(table).all(axis=1)
    if not finite.all():
        call = max(int(np.argmin(finite)) - 1, 0)
        raise ValueError(
            f"{run.name} has coefficients that are not finite from network call {call} on "
            f"(timestep {float(run.timesteps[call]):g}): this scheduler cannot start or end where "
            f"it is set to with prediction_type={scheduler.config.get('prediction_type')!r} (look "
            "at rescale_betas_zero_snr and final_sigmas_type)"
        )


def _check_linear(
    run: SchedulerRun, scheduler: Any, table: np.ndarray, numbers: Tensor, found: Tensor
) -> None:
    """Raise unless random numbers became what the table says.

    Args:
        run: what runs.
        scheduler: as it was given.
        table: the coefficients.
        numbers: the random values of noise, outputs and draws.
        found: what became of them beside one-hot vectors.
    """
    # What looks at a latent as a whole (its norm, a quantile) looked at both together there. Of
    # another size, they are seen to have another one.
    num_calls = min(run.num_calls, NUM_CALLS_ALONE)
    alone, _ = _instrumented(run, numbers / SIZE, num_calls)
    if num_calls < run.num_calls:
        alone = alone[:-1]  # where it stopped; no network input yet
    expected = torch.from_numpy(table) @ numbers
    error = max(_relative(found, expected), _relative(alone, expected[: len(alone)] / SIZE))
    if not error < LINEARITY_TOLERANCE:
        raise _refusal(scheduler) or ValueError(
            f"{run.name}.step is not linear in the network's outputs (a run on random latents is "
            f"off its own coefficients by {error:.1e}), so there is no plan for it. "
            "Differentiate the pipeline's own loop instead: adjointdpm.differentiable(pipe)"
        )


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().amax() / expected.abs().amax())
