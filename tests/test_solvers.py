"""All deterministic solvers: order of convergence, limits, agreement with diffusers."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import PROCESSES, GaussianMixture, convergence_slope, dense_sample
from oracles import SD, assert_tables_agree

from adjointdpm import Denoiser, Sampler, Schedule, solvers
from adjointdpm.solvers.align_your_steps import (
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_XL,
    STABLE_VIDEO_DIFFUSION,
)
from adjointdpm.solvers.exponential import phi
from adjointdpm.solvers.multistep import lagrange_integrals

MIXTURE = GaussianMixture()
NOISE = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

ORDERS = {
    "ddim": 1,
    "dpmpp_1s": 1,
    "deis1": 1,
    "deis2": 2,
    "deis3": 3,
    "deis_rho2": 2,
    "deis_rho3": 3,
    "deis_t2": 2,
    "deis_t3": 3,
    "lms": 4,
    "dpm_solver_2": 2,
    "dpm_solver_3": 3,
    "dpmpp_2s": 2,
    "dpmpp_2m": 2,
    "dpmpp_3m": 2,
    "dpm_singlestep_2": 2,
    "unipc_bh1_1": 2,
    "unipc_bh1_2": 3,
    "unipc_bh1_3": 4,
    "unipc_bh2_1": 2,
    "unipc_bh2_2": 3,
    "unipc_bh2_3": 4,
    "ab1": 1,
    "ab2": 2,
    "ab3": 3,
    "ab4": 4,
    "am2": 2,
    "am3": 3,
    "am4": 4,
    "euler": 1,
    "heun": 2,
    "midpoint": 2,
    "ralston": 2,
    "bs3": 3,
    "rk4": 4,
    "dopri5": 5,
}
"""The order of each method inside the run; low-order starts are made harmless by a graded grid."""
STARTS_LOW = ("deis3", "deis_rho3", "deis_t3", "dpmpp_3m", "lms", "unipc_bh1_3", "unipc_bh2_3")


def _ratios(steps: int, graded: bool) -> np.ndarray:
    """Return noise ratios, uniform in log; graded ones begin with six steps of length O(h^2)."""
    logs = np.linspace(np.log(8), np.log(0.12), steps + 1)
    h = logs[0] - logs[1]
    start = logs[0] - h**2 * np.linspace(0, 1, 7) if graded else logs[:1]
    return np.exp([*start, *logs[1:]])


def _sample(solver: str, process: str, steps: int, graded: bool = False, **more: Any) -> Any:
    schedule = PROCESSES[process]
    plan = solvers.build(
        solver,
        schedule,
        steps,
        prediction_type="v_prediction",
        timesteps=schedule.time(_ratios(steps, graded)),
        final_sigmas_type="sigma_min",
        **more,
    )
    return dense_sample(plan, MIXTURE.network(schedule, "v_prediction"), NOISE)


def _slope(solver: str, process: str, reference: Any, steps: list[int], **more: Any) -> float:
    errors = [float((_sample(solver, process, n, **more) - reference).norm()) for n in steps]
    return convergence_slope(steps, errors)


@pytest.fixture(scope="module")
def references() -> dict[str, torch.Tensor]:
    return {name: _sample("dopri5", name, 150) for name in ("vp", "ve", "edm", "flow")}


@pytest.mark.parametrize("process", ["vp", "ve", "edm", "flow"])
@pytest.mark.parametrize("solver", ORDERS)
def test_order_of_convergence(
    solver: str, process: str, references: dict[str, torch.Tensor]
) -> None:
    # Dormand and Prince's errors are rounding soon, and in the noise form smaller than its order.
    settings = {"steps": [16, 32], "form": "flow"} if solver == "dopri5" else {"steps": [60, 120]}
    slope = _slope(solver, process, references[process], **settings, graded=solver in STARTS_LOW)
    assert slope == pytest.approx(ORDERS[solver], abs=0.2)


@pytest.mark.parametrize(
    "solver",
    ["deis2", "deis3", "dpm_solver_2", "dpm_solver_3", "dpmpp_2m",
     "unipc_bh1_2", "unipc_bh1_3", "unipc_bh2_2", "unipc_bh2_3"],
)  # fmt: skip
@pytest.mark.parametrize("form", ["noise", "data"])
def test_exponential_integrators_have_their_order_in_both_forms(
    solver: str, form: str, references: dict[str, torch.Tensor]
) -> None:
    slope = _slope(solver, "vp", references["vp"], [80, 160], form=form, graded=True)
    assert slope == pytest.approx(ORDERS[solver], abs=0.2)


@pytest.mark.parametrize("form", ["noise", "data", "flow", "angle"])
@pytest.mark.parametrize("solver", ["ralston", "bs3", "am3"])
def test_ode_methods_have_their_order_in_every_form(
    solver: str, form: str, references: dict[str, torch.Tensor]
) -> None:
    slope = _slope(solver, "vp", references["vp"], [80, 160], form=form)
    assert slope == pytest.approx(ORDERS[solver], abs=0.2)


def test_a_start_of_first_order_limits_the_order_to_two(
    references: dict[str, torch.Tensor],
) -> None:
    assert _slope("deis3", "vp", references["vp"], [80, 160]) == pytest.approx(2, abs=0.2)


def test_more_corrections_keep_the_order(references: dict[str, torch.Tensor]) -> None:
    slope = _slope("am3", "vp", references["vp"], [40, 80], corrections=3)
    assert slope == pytest.approx(3, abs=0.2)


DETERMINISTIC = [name for name in solvers.SOLVERS if name not in solvers.STOCHASTIC_SOLVERS]


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("steps", [1, 2, 5, 17])
def test_constant_predictions_are_sampled_exactly(solver: str, process: str, steps: int) -> None:
    """Where the network always answers for one x_0 and eps, every solver ends at that x_0."""
    schedule = PROCESSES[process]
    plan = solvers.build(solver, schedule, steps, prediction_type="v_prediction")
    marginals = plan.marginals(schedule)
    np.testing.assert_allclose(marginals[-1], [1, 0], atol=1e-8)
    expected = np.stack([schedule.alpha(plan.timesteps), schedule.sigma(plan.timesteps)], 1)
    np.testing.assert_allclose(marginals[:-1], expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("form", ["noise", "data"])
@pytest.mark.parametrize("solver", [*solvers.NOISE_SOLVERS, *solvers.DATA_SOLVERS])
def test_ends_without_data_or_noise_are_limits_in_both_forms(solver: str, form: str) -> None:
    zero_snr = Schedule.from_config(diffusers.DDIMScheduler(rescale_betas_zero_snr=True).config)
    for schedule in (zero_snr, Schedule.rectified_flow()):
        plan = solvers.build(solver, schedule, 7, prediction_type="v_prediction", form=form)
        np.testing.assert_allclose(plan.marginals(schedule)[-1], [1, 0], atol=1e-7)


@pytest.mark.parametrize("spacing", ["linspace", "quadratic", "leading", "trailing"])
@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_a_start_without_data_is_right_or_refused(solver: str, spacing: str) -> None:
    """In every form and from every spacing: a start that missed the end by rounding gave 1e15."""
    zero_snr = Schedule.from_config(diffusers.DDIMScheduler(rescale_betas_zero_snr=True).config)
    for form in (None, "noise", "data", "flow"):  # the angle form is not exact in one step
        arguments = {"prediction_type": "v_prediction", "form": form}
        from_pure_noise = spacing != "leading"
        of_ode = solver in solvers.ODE_SOLVERS
        if form == ("noise" if of_ode else "flow") and (from_pure_noise or not of_ode):
            with pytest.raises(ValueError, match=f"{form} form"):
                solvers.build(solver, zero_snr, 7, spacing, **arguments)
            continue
        plan = solvers.build(solver, zero_snr, 7, spacing, **arguments)
        np.testing.assert_allclose(plan.marginals(zero_snr)[-1], [1, 0], atol=1e-6)
        assert (plan.timesteps[0] == zero_snr.t_max) == from_pure_noise


def test_epsilon_says_nothing_where_no_data_is_left() -> None:
    schedule = Schedule.from_config(diffusers.DDIMScheduler(rescale_betas_zero_snr=True).config)
    with pytest.raises(ZeroDivisionError, match="use v_prediction"):
        solvers.build("ddim", schedule, 6, prediction_type="epsilon")


@given(
    k=st.integers(1, 4),
    z=st.floats(-30, 30).filter(lambda z: abs(z) > 0.5),
)
def test_phi_obeys_its_recurrence(k: int, z: float) -> None:
    factorial = [1, 1, 2, 6, 24][k]
    assert phi(k + 1, z) * z == pytest.approx(phi(k, z) - 1 / factorial, rel=1e-9, abs=1e-12)


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=4, unique=True))
def test_weighted_lagrange_integrals_are_exact_for_polynomials(nodes: list[int]) -> None:
    """With the weight exp, against the antiderivative of p e^s for p = s^(n-1)."""
    points = [0.1 * node for node in nodes]
    degree = len(points) - 1
    got = lagrange_integrals(points, 0.3, 1.4, np.exp) @ np.array(points) ** degree
    power = np.polynomial.Polynomial.basis(degree)
    antiderivative, sign = np.polynomial.Polynomial([0.0]), 1.0
    for _ in range(degree + 1):
        antiderivative, power, sign = antiderivative + sign * power, power.deriv(), -sign
    expected = antiderivative(1.4) * np.exp(1.4) - antiderivative(0.3) * np.exp(0.3)
    assert got == pytest.approx(expected, rel=1e-8, abs=1e-8)


@settings(deadline=None, max_examples=25)
@given(
    solver=st.sampled_from(DETERMINISTIC),
    times=st.lists(st.integers(1, 99), min_size=1, max_size=7, unique=True),
    prediction_type=st.sampled_from(["epsilon", "sample", "v_prediction", "flow_prediction"]),
)
def test_any_descending_grid_will_do(solver: str, times: list[int], prediction_type: str) -> None:
    schedule = Schedule.vp_linear()
    grid = sorted((0.01 * t for t in times), reverse=True)
    plan = solvers.build(solver, schedule, 1, prediction_type=prediction_type, timesteps=grid)
    np.testing.assert_allclose(plan.marginals(schedule)[-1], [1, 0], atol=1e-7)


UNIPC, DEIS = diffusers.UniPCMultistepScheduler, diffusers.DEISMultistepScheduler
MULTI, SINGLE = diffusers.DPMSolverMultistepScheduler, diffusers.DPMSolverSinglestepScheduler
NOISE_FORM = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
PLAIN = {"lower_order_final": False}
V = {"prediction_type": "v_prediction"}


@pytest.mark.parametrize("steps", [9, 16])
@pytest.mark.parametrize(
    ("solver", "scheduler", "more"),
    [
        *[(f"unipc_bh2_{p}", UNIPC(solver_order=p, **SD), {}) for p in (1, 2, 3)],
        *[
            (
                f"unipc_{b}_{p}",
                UNIPC(solver_order=p, solver_type=b, predict_x0=form == "data", **PLAIN,
                      final_sigmas_type="sigma_min", **SD),
                {"form": form, "final_sigmas_type": "sigma_min"},
            )
            for p in (1, 2, 3) for b in ("bh1", "bh2") for form in ("data", "noise")
        ],
        *[(f"dpmpp_{p}m", MULTI(solver_order=p, **SD), {}) for p in (2, 3)],
        *[
            (f"dpmpp_{p}m", MULTI(solver_order=p, **NOISE_FORM, **PLAIN, **SD),
             {"form": "noise", "final_sigmas_type": "sigma_min"})
            for p in (2, 3)
        ],
        *[(f"dpm_singlestep_{p}", SINGLE(solver_order=p, **SD), {}) for p in (2, 3)],
        *[
            (f"dpm_singlestep_{p}",
             SINGLE(solver_order=p, lower_order_final=True, **NOISE_FORM, **SD),
             {"form": "noise", "final_sigmas_type": "sigma_min"})
            for p in (2, 3)
        ],
        *[
            (f"deis{p}", DEIS(solver_order=p, **PLAIN, **SD), {"final_sigmas_type": "sigma_min"})
            for p in (1, 2, 3)
        ],
        ("ddim", diffusers.DDIMScheduler(clip_sample=False, **SD), {}),
        ("ddim", diffusers.DDIMScheduler(clip_sample=False, **V, **SD), {}),
        ("dpmpp_2m", MULTI(**V, **SD), {}),
        ("lms", diffusers.LMSDiscreteScheduler(**SD), {}),
        ("heun", diffusers.HeunDiscreteScheduler(**SD), {}),
        ("euler", diffusers.EulerDiscreteScheduler(**SD), {}),
        ("euler", diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), {}),
        ("heun", diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0), {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_tables_agree_with_diffusers(solver: str, scheduler: Any, more: Any, steps: int) -> None:
    assert_tables_agree(solver, scheduler, steps, **more)


@pytest.mark.parametrize("steps", [10, 11, 12])
@pytest.mark.parametrize("order", [2, 3])
def test_singlestep_groups_agree_with_diffusers(order: int, steps: int) -> None:
    assert_tables_agree(f"dpm_singlestep_{order}", SINGLE(solver_order=order, **SD), steps)


@pytest.mark.parametrize("steps", [10, 21])
@pytest.mark.parametrize("steps_offset", [0, 1])
def test_leading_with_an_offset_agrees_with_diffusers(steps: int, steps_offset: int) -> None:
    scheduler = diffusers.DDIMScheduler(steps_offset=steps_offset)
    scheduler.set_timesteps(steps)
    schedule = Schedule.from_config(scheduler.config)
    points = solvers.grid(schedule, steps, "leading", steps_offset=steps_offset)
    assert [point.t for point in points[:-1]] == scheduler.timesteps.tolist()


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


def test_linspace_is_that_of_diffusers_before_rounding() -> None:
    scheduler = diffusers.DDIMScheduler(timestep_spacing="linspace")
    scheduler.set_timesteps(13)
    points = solvers.grid(Schedule.from_config(scheduler.config), 13, "linspace")
    rounded = np.round([point.t for point in points[:-1]])
    np.testing.assert_array_equal(rounded, scheduler.timesteps.numpy())


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_shift_agrees_with_diffusers(shift: float) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 8, 8).tolist())
    schedule = Schedule.from_config(scheduler.config)
    points = solvers.grid(schedule, 8, "trailing", shift=shift)
    np.testing.assert_allclose(
        [point.t for point in points[:-1]], scheduler.timesteps.numpy(), rtol=1e-6
    )


def test_log_snr_is_uniform_in_log_snr() -> None:
    points = solvers.grid(Schedule.vp_linear(), 9, "log_snr", final_sigmas_type="sigma_min")
    logs = np.log([point.alpha / point.sigma for point in points])
    np.testing.assert_allclose(np.diff(logs), np.diff(logs)[0], rtol=1e-6)


def test_align_your_steps() -> None:
    schedule = PROCESSES["scaled_linear"]
    times = [point.t for point in solvers.grid(schedule, 10, "ays_sd")[:-1]]
    theirs = diffusers.schedulers.AysSchedules
    assert times == theirs["StableDiffusionTimesteps"]
    assert list(STABLE_DIFFUSION_XL.timesteps) == theirs["StableDiffusionXLTimesteps"]
    fitted = (STABLE_DIFFUSION, STABLE_DIFFUSION_XL, STABLE_VIDEO_DIFFUSION)
    for steps, name in zip(fitted, ("", "XL", "Video"), strict=True):
        assert list(steps.ratios) == theirs[f"StableDiffusion{name}Sigmas"][:-1]
    ratios = [p.sigma / p.alpha for p in solvers.grid(schedule, 19, "ays_sdxl")[:-1]]
    table = diffusers.schedulers.AysSchedules["StableDiffusionXLSigmas"][:-1]
    np.testing.assert_allclose(ratios[::2], table, rtol=2e-3)
    solvers.build("dpmpp_2m", Schedule.edm(0.002, 700), 10, "ays_svd")


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
        ({"solver": "heun", "eta": 0.5}, "heun has no option 'eta'; it has none"),
        ({"solver": "ddim", "s_churn": 1}, "ddim has no option 's_churn'; it has eta"),
        ({"solver": "unipc_bh1_2", "order": 3}, "no option 'order'"),
        ({"solver": "ddim", "eta": 1.5}, "eta must be"),
        ({"solver": "am2", "corrections": 0}, "corrections must be"),
        ({"solver": "dpmpp_2m", "form": "flow"}, "no flow form"),
        ({"shift": 3.0}, "shift is for flow matching"),
        ({"schedule": Schedule.rectified_flow(), "shift": -1.0}, "shift must be positive"),
    ],
)
def test_wrong_options(arguments: dict[str, Any], message: str) -> None:
    defaults = {"solver": "ddim", "schedule": Schedule.vp_linear(), "num_inference_steps": 5}
    with pytest.raises(ValueError, match=message):
        solvers.build(**{**defaults, **arguments})


@pytest.mark.parametrize("solver", ["unipc_bh2_3", "dpm_solver_3", "dpm_singlestep_3", "deis_t3",
                                    "dopri5", "am4"])  # fmt: skip
def test_the_sampler_runs_the_table(solver: str) -> None:
    schedule = PROCESSES["flow"]
    plan = solvers.build(solver, schedule, 8, prediction_type="flow_prediction")
    network = MIXTURE.network(schedule, "flow_prediction")
    sampled = Sampler(Denoiser(network, schedule, "flow_prediction"), plan)(NOISE)
    torch.testing.assert_close(sampled, dense_sample(plan, network, NOISE))
