"""Schedules: inverses, limits, and agreement with diffusers' own tables."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mixtures import PROCESSES

from adjointdpm import Schedule

FRACTION = st.floats(0, 1)
ALL = {
    **PROCESSES,
    "zero_snr": Schedule.from_config(diffusers.DDIMScheduler(rescale_betas_zero_snr=True).config),
    "squaredcos": Schedule.from_config(
        diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2").config
    ),
    "flow_config": Schedule.from_config(diffusers.FlowMatchEulerDiscreteScheduler(shift=3).config),
    "edm_config": Schedule.from_config(diffusers.EDMEulerScheduler().config),
}
"""Every kind of schedule that there is."""


def _time(schedule: Schedule, fraction: float) -> float:
    return schedule.t_min + fraction * (schedule.t_max - schedule.t_min)


@pytest.mark.parametrize("name", ALL)
@given(fraction=FRACTION)
def test_time_inverts_ratio(name: str, fraction: float) -> None:
    schedule = ALL[name]
    t = _time(schedule, fraction)
    assert schedule.time(schedule.ratio(t)) == pytest.approx(t, abs=1e-10 * schedule.t_max)


@pytest.mark.parametrize("name", ALL)
@given(fraction=FRACTION)
def test_ratio_is_sigma_over_alpha(name: str, fraction: float) -> None:
    schedule = ALL[name]
    t = _time(schedule, fraction)
    ratio = schedule.ratio(t)
    if np.isfinite(ratio):
        assert schedule.alpha(t) * ratio == pytest.approx(schedule.sigma(t), rel=1e-10)
    else:
        assert schedule.alpha(t) == 0


@pytest.mark.parametrize("name", ["vp", "cosine", "scaled_linear", "zero_snr", "squaredcos"])
@given(fraction=FRACTION)
def test_variance_is_preserved(name: str, fraction: float) -> None:
    schedule = ALL[name]
    t = _time(schedule, fraction)
    assert schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2 == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_ratio_grows_with_time(name: str) -> None:
    schedule = ALL[name]
    ratios = schedule.ratio(np.linspace(schedule.t_min, schedule.t_max, 3001))
    assert (np.diff(ratios) > 0).all()


@pytest.mark.parametrize("name", ALL)
def test_kinds_of_argument_agree(name: str) -> None:
    schedule = ALL[name]
    times = np.linspace(schedule.t_min, schedule.t_max, 7)[:-1]
    for function in (schedule.alpha, schedule.sigma, schedule.ratio):
        as_array = function(times)
        as_tensor = function(torch.tensor(times))
        assert isinstance(as_array, np.ndarray)
        assert as_tensor.dtype == torch.float64
        assert isinstance(function(float(times[1])), float)
        np.testing.assert_array_equal(as_array, as_tensor.numpy())
        assert function(float(times[1])) == as_array[1]


CONFIGS = [
    {"beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True},
    {"trained_betas": np.linspace(1e-4, 0.03, 50).tolist(), "num_train_timesteps": 50},
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: str(c)[:50])
def test_tables_agree_with_diffusers(config: dict) -> None:
    scheduler = diffusers.DDIMScheduler(**config)
    schedule = Schedule.from_config(scheduler.config)
    t = np.arange(len(scheduler.alphas_cumprod))
    expected = scheduler.alphas_cumprod.double().sqrt().numpy()
    np.testing.assert_allclose(schedule.alpha(t), expected, atol=2e-6)
    np.testing.assert_allclose(schedule.time(schedule.ratio(t)), t, atol=1e-9)


def test_a_cosine_schedule_needs_no_ends() -> None:
    scheduler = diffusers.UnCLIPScheduler()
    assert "beta_start" not in scheduler.config
    alphas = Schedule.from_config(scheduler.config).alpha(np.arange(1000))
    np.testing.assert_allclose(alphas, scheduler.alphas_cumprod.double().sqrt(), atol=2e-6)
    with pytest.raises(ValueError, match="beta_schedule='linear' but no beta_end and no beta_st"):
        Schedule.from_config({"beta_schedule": "linear"})


def test_sigmoid_betas_agree_with_diffusers() -> None:
    scheduler = diffusers.DDPMScheduler(beta_schedule="sigmoid")
    schedule = Schedule.from_config(scheduler.config)
    expected = scheduler.alphas_cumprod.double().sqrt().numpy()
    np.testing.assert_allclose(schedule.alpha(np.arange(1000)), expected, atol=2e-6)


def test_zero_terminal_snr_is_exact() -> None:
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True)
    schedule = Schedule.from_config(scheduler.config)
    assert schedule.alpha(999) == 0
    assert schedule.sigma(999) == 1
    assert schedule.ratio(999.0) == np.inf
    assert schedule.time(np.inf) == 999
    t = np.linspace(997.5, 999, 40)
    np.testing.assert_allclose(schedule.time(schedule.ratio(t)), t, atol=1e-10)


def test_log_ratio_is_linear_between_grid_values() -> None:
    schedule = PROCESSES["scaled_linear"]
    log = np.log(schedule.ratio(np.array([10.0, 10.25, 11.0])))
    assert log[1] == pytest.approx(0.75 * log[0] + 0.25 * log[2], abs=1e-13)


def test_flow_matching_config_in_the_network_time() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule = Schedule.from_config(scheduler.config)
    scheduler.set_timesteps(10)
    np.testing.assert_allclose(
        schedule.sigma(scheduler.timesteps.numpy()), scheduler.sigmas[:-1].numpy(), atol=1e-6
    )


def test_edm_config_in_the_network_time() -> None:
    scheduler = diffusers.EDMEulerScheduler()
    schedule = Schedule.from_config(scheduler.config)
    scheduler.set_timesteps(10)
    np.testing.assert_allclose(
        schedule.ratio(scheduler.timesteps.numpy()), scheduler.sigmas[:-1].numpy(), rtol=1e-5
    )
    x = torch.ones(1)
    scaled = scheduler.precondition_inputs(x, scheduler.sigmas[3])
    assert schedule.alpha(float(scheduler.timesteps[3])) == pytest.approx(float(scaled), rel=1e-5)


def test_unknown_configs_are_refused() -> None:
    with pytest.raises(ValueError, match="no noise schedule"):
        Schedule.from_config({"num_train_timesteps": 1000})
    with pytest.raises(ValueError, match="from noise to data"):
        Schedule.from_config({"shift": 1.0, "invert_sigmas": True})
    with pytest.raises(ValueError, match="beta_schedule 'odd'"):
        Schedule.from_config({"beta_schedule": "odd", "beta_start": 1e-4, "beta_end": 0.02})
    with pytest.raises(ValueError, match="grows"):
        Schedule.from_betas([0.1, 0.0, 0.1])
