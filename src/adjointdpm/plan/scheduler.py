"""Reading the table of coefficients out of a diffusers scheduler, by running its own ``step``.

Each network input and the sample is a linear combination of the initial noise, the network outputs
and the drawn noises. Run on one-hot vectors in place of those, a scheduler writes down its own
coefficients. Nothing of it is reimplemented, and a ``step`` that is not linear is found out.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

LINEARITY_TOLERANCE = 1e-4


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
        kwargs = dict(kwargs or {})
        if func in (torch.randn, torch.randn_like):
            self.num_draws += 1
            return self.draw(self.num_draws - 1)
        is_state = bool(args) and isinstance(args[0], Tensor) and args[0].shape == self.shape
        if is_state and func in (Tensor.to, Tensor.float, Tensor.half):
            # Some schedulers cast to float32 inside `step`: the coefficients are wanted unrounded.
            return args[0]
        return func(*args, **kwargs)


def _signature(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _run(
    scheduler: Any,
    begin: int,
    noise: Tensor,
    output: Callable[[int], Tensor],
    draw: Callable[[int], Tensor],
    step_arguments: Mapping[str, Any],
) -> tuple[list[Tensor], int]:
    """Run a scheduler's loop; return the network inputs, then the sample, and count the draws."""
    scheduler = copy.deepcopy(scheduler)
    if begin and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    # What CogVideoXDPMScheduler lets the pipeline remember for it.
    memory = {"old_pred_original_sample", "timestep_back"}
    last: dict[str, Any] = dict.fromkeys(memory & set(_signature(scheduler.step)))
    rows: list[Tensor] = []
    sample = noise * float(getattr(scheduler, "init_noise_sigma", 1.0))
    with _Instrument(noise.shape, draw) as instrument:
        for k, t in enumerate(scheduler.timesteps[begin:]):
            if hasattr(scheduler, "scale_model_input"):
                rows.append(scheduler.scale_model_input(sample, t))
            else:
                rows.append(sample)
            result = scheduler.step(
                model_output=output(k),
                timestep=t,
                sample=sample,
                return_dict=False,
                **last,
                **step_arguments,
            )
            sample = result[0]
            if last:
                last = {"old_pred_original_sample": result[1], "timestep_back": t}
    return [*rows, sample], instrument.num_draws


def _refuse_settings(scheduler: Any) -> None:
    name = type(scheduler).__name__
    if not hasattr(scheduler, "set_timesteps") or not hasattr(scheduler, "step"):
        raise ValueError(f"{name} has no set_timesteps and step, so it cannot be read as a plan")
    arguments = _signature(scheduler.step)
    if not {"model_output", "timestep", "sample"} <= set(arguments):
        raise ValueError(
            f"{name}.step takes {', '.join(arguments)}; only schedulers whose step takes "
            "model_output, timestep and sample can be read as a plan"
        )
    for setting, denoiser_setting in [
        ("clip_sample", "clip_sample=True"),
        ("clip_denoised", "clip_sample=True"),
        ("thresholding", "thresholding=True"),
    ]:
        if scheduler.config.get(setting):
            raise ValueError(
                f"{name} has {setting}=True, which is not linear in the network's output. Make the "
                f"plan from {name}.from_config(scheduler.config, {setting}=False) and clip x_0 in "
                f"the denoiser: Denoiser(..., {denoiser_setting})"
            )


def _prediction_type(scheduler: Any) -> str | None:
    config = scheduler.config
    if "sigma_data" in config:
        return None  # EDM's preconditioned output is none of the four
    if config.get("prediction_type") is not None:
        return str(config["prediction_type"])
    return "flow_prediction" if "shift" in config and not config.get("invert_sigmas") else None


def read_scheduler(
    scheduler: Any,
    num_inference_steps: int | None = None,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    step_arguments: Mapping[str, Any] | None = None,
    begin: int = 0,
    **set_timesteps_arguments: Any,
) -> Probe:
    """Read off the coefficients of a scheduler; see `Plan.from_scheduler`.

    Raises:
        ValueError: the scheduler has no ordinary ``step``, does not take the given timesteps, or
            its ``step`` is not linear in the network's output.
    """
    _refuse_settings(scheduler)
    name = type(scheduler).__name__
    scheduler = copy.deepcopy(scheduler)
    requested = {
        "num_inference_steps": num_inference_steps,
        "timesteps": timesteps,
        "sigmas": sigmas,
        **set_timesteps_arguments,
    }
    requested = {key: value for key, value in requested.items() if value is not None}
    if not {"num_inference_steps", "timesteps", "sigmas"} & set(requested):
        raise ValueError("give num_inference_steps, timesteps or sigmas")
    if num_inference_steps is not None and num_inference_steps < 1:
        raise ValueError(f"num_inference_steps must be at least 1, not {num_inference_steps}")
    unknown = set(requested) - set(_signature(scheduler.set_timesteps))
    if unknown:
        raise ValueError(f"{name}.set_timesteps does not take {', '.join(sorted(unknown))}")
    scheduler.set_timesteps(**requested)

    step_arguments = dict(step_arguments or {})
    unknown = set(step_arguments) - set(_signature(scheduler.step))
    if unknown:
        raise ValueError(f"{name}.step does not take {', '.join(sorted(unknown))}")

    def run(noise: Tensor, output: Callable[[int], Tensor], draw: Callable[[int], Tensor]) -> Any:
        return _run(scheduler, begin, noise, output, draw, step_arguments)

    num_calls = len(scheduler.timesteps[begin:])
    if not 0 <= begin < len(scheduler.timesteps):
        raise ValueError(f"begin={begin} leaves none of the {len(scheduler.timesteps)} timesteps")
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    _, num_draws = run(zero, lambda k: zero, lambda j: zero)

    units = torch.eye(1 + num_calls + num_draws, dtype=torch.float64)[:, None, None, None, :]
    rows, _ = run(units[0], lambda k: units[1 + k], lambda j: units[1 + num_calls + j])
    table = torch.cat([row.reshape(1, -1) for row in rows]).numpy()
    finite = np.isfinite(table).all(axis=1)
    if not finite.all():
        call = max(int(np.argmin(finite)) - 1, 0)
        raise ValueError(
            f"{name} has coefficients that are not finite from network call {call} on (timestep "
            f"{float(scheduler.timesteps[call]):g}): this scheduler cannot start or end where it "
            f"is set to with prediction_type={scheduler.config.get('prediction_type')!r} (look at "
            "rescale_betas_zero_snr and final_sigmas_type)"
        )

    # Far outside [-1, 1], so that anything that clips is seen to.
    generator = torch.Generator().manual_seed(0)
    values = 10 * torch.randn(len(units), 1, 1, 4, 4, dtype=torch.float64, generator=generator)
    rows, _ = run(values[0], lambda k: values[1 + k], lambda j: values[1 + num_calls + j])
    expected = torch.einsum("kj,j...->k...", torch.from_numpy(table), values)
    error = (torch.stack(rows) - expected).abs().amax() / expected.abs().amax()
    if not error < LINEARITY_TOLERANCE:
        raise ValueError(
            f"{name}.step is not linear in the network's outputs (a run on random latents is off "
            f"its own coefficients by {float(error):.1e}), so there is no plan for it. Turn off "
            "what clips or thresholds in the scheduler and use Denoiser(clip_sample=True) or "
            "Denoiser(thresholding=True)"
        )
    times = scheduler.timesteps[begin:].detach().cpu().to(torch.float64).numpy()
    return Probe(times, table, num_draws, _prediction_type(scheduler))
