"""Every scheduler in diffusers with all its settings: read and right, or refused in words."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from adjointdpm import Denoiser, Plan, Sampler, Schedule
from adjointdpm.plan import SchedulerRun

NAMES = [
    name
    for name in dir(diffusers)
    if name.endswith("Scheduler") and inspect.isclass(getattr(diffusers, name))
]
LINEAR = {"clip_sample": False, "thresholding": False, "clip_denoised": False}
SETTINGS: dict[str, list[Any]] = {
    "prediction_type": ["sample", "v_prediction", "flow_prediction", "nonsense"],
    "timestep_spacing": ["leading", "trailing", "linspace"],
    "rescale_betas_zero_snr": [True],
    "use_karras_sigmas": [True],
    "use_exponential_sigmas": [True],
    "use_flow_sigmas": [True],
    "use_lu_lambdas": [True],
    "sigma_schedule": ["exponential"],
    "beta_schedule": ["scaled_linear", "squaredcos_cap_v2"],
    "solver_order": [1, 3],
    "algorithm_type": ["dpmsolver", "sde-dpmsolver", "sde-dpmsolver++"],
    "solver_type": ["heun", "bh1"],
    "final_sigmas_type": ["zero", "sigma_min"],
    "lower_order_final": [False],
    "euler_at_final": [True],
    "set_alpha_to_one": [False],
    "steps_offset": [1],
    "skip_prk_steps": [True],
    "variance_type": ["fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"],
    "invert_sigmas": [True],
    "stochastic_sampling": [True],
    "interpolation_type": ["log_linear"],
    "predict_x0": [False],
    "disable_corrector": [[0, 1]],
    "predictor_order": [1, 3],
    "timestep_type": ["continuous"],
    "snr_shift_scale": [1.0],
    "shift": [3.0],
}
FEWER = {"num_train_timesteps": 100}
"""Of schedulers that look up the time of each training step one by one when they are built."""
STEPS = ((6, 0), (1, 0), (2, 0), (7, 2), (7, 3))
"""Numbers of steps, and how many timesteps are left out at the start."""


TOGETHER = ("rescale_betas_zero_snr", "algorithm_type", "use_flow_sigmas", "predict_x0")
"""Settings that are tried with another prediction type too."""


def _schedulers(name: str) -> Iterator[tuple[Any, tuple[tuple[int, int], ...]]]:
    """Yield a scheduler with its defaults, with each setting alone, and some of them together."""
    kind = getattr(diffusers, name)
    taken = inspect.signature(kind.__init__).parameters
    linear = {key: value for key, value in LINEAR.items() if key in taken}
    if name.startswith("KDPM2"):
        linear |= FEWER
    alone = [{key: value} for key, values in SETTINGS.items() if key in taken for value in values]
    together = [
        {**one, "prediction_type": "v_prediction"}
        for one in alone
        if not set(one).isdisjoint(TOGETHER) and "prediction_type" in taken
    ]
    for settings in [{}, *alone, *together]:
        with contextlib.suppress(ValueError, TypeError, ImportError, NotImplementedError):
            # Starting late and few steps matter to the defaults alone: the rest is the same code.
            yield kind(**linear, **settings), STEPS[:1] if settings else STEPS


class _Float64(TorchFunctionMode):
    """Keeps a scheduler's own loop in float64, and writes down what it draws."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.like, self.drawn = like, []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.randn, torch.randn_like):
            self.drawn.append(torch.randn_like(self.like))
            return self.drawn[-1]
        state = args and isinstance(args[0], Tensor) and args[0].shape == self.like.shape
        if state and func in (Tensor.to, Tensor.float):
            return args[0]
        return func(*args, **(kwargs or {}))


def _network(x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
    mixed = x.roll(1, -1) + 0.3 * x + shift
    return torch.tanh(mixed + 0.002 * t.reshape(-1, 1, 1, 1)) + 0.1 * x.sin()


def _error(value: Tensor | None, expected: Tensor | None) -> float:
    """Return the relative error; a gradient that nothing reads may be zero in either."""
    if value is None or expected is None:
        return max((float(v.norm()) for v in (value, expected) if v is not None), default=0.0)
    if float(expected.norm()) < 1e-12:
        return float((value - expected).norm())
    return float((value - expected).norm() / expected.norm())


def _check(scheduler: Any, steps: int, begin: int) -> str:
    """Compare a plan with the scheduler's own loop, or return why it was refused."""
    try:
        plan = Plan.from_scheduler(scheduler, steps, begin=begin)
    except ValueError as error:
        return str(error)
    noise, shift, direction = torch.randn(3, 2, 3, 4, 4, dtype=torch.float64)
    leaves = [noise.requires_grad_(), shift.requires_grad_()]

    run = SchedulerRun(scheduler, steps, begin=begin)
    with _Float64(noise) as own:
        times = run.timesteps.to(torch.float64)
        expected = run(noise, lambda k, x: _network(x, times[k : k + 1], shift))[-1]
    draws = torch.stack(own.drawn) if own.drawn else noise.new_zeros(0, *noise.shape)
    expected_gradients = torch.autograd.grad(
        (expected * direction).sum(), leaves, allow_unused=True
    )

    denoiser = Denoiser(_network, Schedule.vp_linear(), plan.prediction_type or "epsilon")
    sample = Sampler(denoiser, plan)(noise, shift=shift, draws=draws)
    gradients = torch.autograd.grad((sample * direction).sum(), leaves, allow_unused=True)
    errors = [_error(sample, expected), *map(_error, gradients, expected_gradients)]
    assert max(errors) < 1e-7, f"{scheduler}, {steps} steps from {begin}: {errors}"
    return ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_right_or_refused(name: str) -> None:
    for scheduler, ways in _schedulers(name):
        for steps, begin in ways:
            refusal = _check(scheduler, steps, begin)
            assert not refusal or len(refusal.split()) > 8, refusal


def test_several_hundred_settings_are_tried() -> None:
    quick = [name for name in NAMES if not name.startswith("KDPM2")]
    assert sum(len(ways) for name in quick for _, ways in _schedulers(name)) > 350
