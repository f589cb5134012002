"""Our own solvers: order of convergence, limits, and agreement with diffusers."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from mixtures import PROCESSES, GaussianMixture, convergence_slope

from adjointdpm import Denoiser, Plan, Sampler, Schedule, solvers

ORDERS = {
    "ddim": 1,
    "euler": 1,
    "heun": 2,
    "midpoint": 2,
    "rk4": 4,
    "ab2": 2,
    "ab3": 3,
    "ab4": 4,
    "dpmpp_2m": 2,
}
STEPS = {"rk4": [30, 60], "dpmpp_2m": [120, 240], "ab3": [120, 240], "ab4": [120, 240]}
"""Where a solver needs another number of steps than the others to be in its asymptotic regime."""

MIXTURE = GaussianMixture()


def _spacing(process: str) -> str:
    return "exponential" if process in ("ve", "edm") else "linspace"


def _sample(process: str, solver: str, steps: int, **settings: str) -> torch.Tensor:
    schedule = PROCESSES[process]
    plan = solvers.build(
        solver,
        schedule,
        steps,
        _spacing(process),
        "v_prediction",
        final_sigmas_type="sigma_min",
        **settings,
    )
    denoiser = Denoiser(MIXTURE.network(schedule, "v_prediction"), schedule, "v_prediction")
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(8, MIXTURE.dim, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        return Sampler(denoiser, plan)(noise)


@pytest.fixture(scope="module")
def references() -> dict[str, torch.Tensor]:
    return {name: _sample(name, "rk4", 320) for name in ("vp", "ve", "edm", "flow", "sub_vp")}


@pytest.mark.parametrize("process", ["vp", "ve", "edm", "flow", "sub_vp"])
@pytest.mark.parametrize("solver", ORDERS)
def test_order_of_convergence(
    solver: str, process: str, references: dict[str, torch.Tensor]
) -> None:
    steps = STEPS.get(solver, [60, 120])
    errors = [
        float((_sample(process, solver, n) - references[process]).norm(dim=1).mean()) for n in steps
    ]
    slope = convergence_slope(steps, errors)
    assert slope == pytest.approx(ORDERS[solver], abs=0.2), f"errors {errors}"


@pytest.mark.parametrize("form", ["noise", "flow", "angle"])
def test_order_is_the_same_in_every_form(form: str, references: dict[str, torch.Tensor]) -> None:
    errors = [
        float((_sample("vp", "heun", n, form=form) - references["vp"]).norm()) for n in (60, 120)
    ]
    assert convergence_slope([60, 120], errors) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("solver", ORDERS)
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("prediction_type", ["v_prediction", "flow_prediction", "sample"])
def test_a_perfect_denoiser_is_sampled_exactly(
    solver: str, process: str, prediction_type: str
) -> None:
    """If the network always answers with one x_0 and eps, every solver ends at that x_0."""
    schedule = PROCESSES[process]
    plan = solvers.build(solver, schedule, 9, prediction_type=prediction_type)
    marginals = plan.marginals(schedule)
    np.testing.assert_allclose(marginals[-1], [1, 0], atol=1e-9)
    expected = np.stack([schedule.alpha(plan.timesteps), schedule.sigma(plan.timesteps)], 1)
    np.testing.assert_allclose(marginals[:-1], expected, rtol=1e-8, atol=1e-9)


def test_ends_without_data_are_limits() -> None:
    schedule = Schedule.from_config(diffusers.DDIMScheduler(rescale_betas_zero_snr=True).config)
    for solver in ORDERS:
        plan = solvers.build(solver, schedule, 6, prediction_type="v_prediction")
        assert np.isfinite(plan.table).all()
    with pytest.raises(ZeroDivisionError, match="use v_prediction"):
        solvers.build("ddim", schedule, 6, prediction_type="epsilon")


DDIM = {"clip_sample": False}


@pytest.mark.parametrize(
    ("solver", "scheduler"),
    [
        ("ddim", diffusers.DDIMScheduler(**DDIM)),
        ("ddim", diffusers.DDIMScheduler(**DDIM, prediction_type="v_prediction")),
        ("dpmpp_2m", diffusers.DPMSolverMultistepScheduler()),
        ("dpmpp_2m", diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction")),
        ("heun", diffusers.HeunDiscreteScheduler()),
        ("euler", diffusers.EulerDiscreteScheduler()),
        ("euler", diffusers.FlowMatchEulerDiscreteScheduler()),
        ("heun", diffusers.FlowMatchHeunDiscreteScheduler()),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_tables_agree_with_diffusers(solver: str, scheduler: diffusers.SchedulerMixin) -> None:
    theirs = Plan.from_scheduler(scheduler, 12)
    schedule = Schedule.from_config(scheduler.config)
    times = list(dict.fromkeys(theirs.timesteps.tolist()))
    ours = solvers.build(
        solver, schedule, 12, timesteps=times, prediction_type=theirs.prediction_type
    )
    # Euler-type schedulers of diffusers start with sqrt(sigma^2 + 1) in place of 1.
    table = theirs.table.copy()
    table[:, 0] *= ours.table[0, 0] / table[0, 0]
    np.testing.assert_allclose(ours.table, table, atol=2e-4 * np.abs(table).max())


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_spacings_agree_with_diffusers(spacing: str) -> None:
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(13)
    schedule = Schedule.from_config(scheduler.config)
    points = solvers.grid(schedule, 13, spacing)
    times = [point.t for point in points[:-1]]
    np.testing.assert_allclose(times, scheduler.timesteps.numpy(), rtol=1e-6)


def test_karras_spacing_agrees_with_diffusers() -> None:
    scheduler = diffusers.EulerDiscreteScheduler(use_karras_sigmas=True)
    scheduler.set_timesteps(13)
    schedule = Schedule.from_config(scheduler.config)
    ratios = [point.sigma / point.alpha for point in solvers.grid(schedule, 13, "karras")]
    np.testing.assert_allclose(ratios, scheduler.sigmas.numpy(), rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": "nothing"}, "solver 'nothing'"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"spacing": "nothing"}, "spacing 'nothing'"),
        ({"spacing": "leading"}, "read from a diffusers"),
        ({"timesteps": [0.1, 0.9]}, "descend"),
        ({"final_sigmas_type": "nothing"}, "final_sigmas_type"),
        ({"prediction_type": "nothing"}, "prediction_type 'nothing'"),
        ({"solver": "heun", "form": "nothing"}, "form 'nothing'"),
    ],
)
def test_wrong_words(arguments: dict, message: str) -> None:
    defaults = {"solver": "ddim", "schedule": Schedule.vp_linear(), "num_inference_steps": 5}
    with pytest.raises(ValueError, match=message):
        solvers.build(**{**defaults, **arguments})
