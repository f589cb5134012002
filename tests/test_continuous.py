"""The continuous adjoint: it converges to the gradient, at the order of its solver."""

from __future__ import annotations

import functools
import warnings
from itertools import product
from typing import Any

import diffusers
import pytest
import torch
from mixtures import PROCESSES, GaussianMixture, convergence_slope
from networks import SmallNetwork, relative_error
from observers import Notes
from torch import Tensor

from adjointdpm import (
    ContinuousAdjoint,
    Denoiser,
    Exact,
    GradientMethod,
    Plan,
    Sampler,
    Schedule,
    solvers,
)
from adjointdpm.gradients import InaccurateGradientWarning

MIXTURE = GaussianMixture()


def _gradients(
    process: str,
    method: Any,
    steps: int = 30,
    final_sigmas_type: str = "sigma_min",
    observer: Notes | None = None,
) -> list[Tensor]:
    """Return the gradients for noise and means along a forward run of the fifth order."""
    schedule = PROCESSES[process]
    spacing = "exponential" if process == "edm" else "linspace"
    plan = solvers.build(
        "dopri5",
        schedule,
        steps,
        spacing,
        "v_prediction",
        final_sigmas_type=final_sigmas_type,
        form="angle",
    )
    denoiser = Denoiser(MIXTURE.network(schedule, "v_prediction"), schedule, "v_prediction")
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(4, MIXTURE.dim, dtype=torch.float64, generator=generator).requires_grad_()
    means = MIXTURE.means.clone().requires_grad_()
    sample = Sampler(denoiser, plan, method, observer=observer)(noise, means=means)
    return list(torch.autograd.grad((sample**2).sum() + sample.sin().sum(), [noise, means]))


@pytest.fixture(scope="module")
def exact() -> dict[str, list[Tensor]]:
    return {process: _gradients(process, Exact(), 60) for process in ("vp", "edm", "flow")}


@pytest.mark.parametrize("process", ["vp", "edm", "flow"])
@pytest.mark.parametrize(
    ("solver", "order", "steps"),
    [
        ("euler", 1, [40, 80]),
        ("heun", 2, [20, 40]),
        ("ab2", 2, [40, 80]),
        ("bs3", 3, [15, 30]),
        ("rk4", 4, [10, 20]),
        ("dopri5", 5, [10, 20]),
    ],
)
def test_error_falls_at_the_order_of_the_solver(
    process: str, solver: str, order: int, steps: list[int], exact: dict[str, list[Tensor]]
) -> None:
    # The states that the sweep goes along must be nearer than its own error.
    forward = 30 if order == 5 else 20
    gradients = [
        _gradients(process, ContinuousAdjoint(solver, num_steps=n, form="angle"), forward)
        for n in steps
    ]
    for target, reference in enumerate(exact[process]):
        errors = [relative_error(gradient[target], reference) for gradient in gradients]
        assert convergence_slope(steps, errors) > order - 0.2, errors


def test_interpolation_does_not_limit_the_order(exact: dict[str, list[Tensor]]) -> None:
    """With as few recorded states as reverse steps: twice, since stages fall between them."""
    steps, errors = [6, 12], []
    for n in steps:
        method = ContinuousAdjoint("dopri5", form="angle")
        gradients = _gradients("vp", method, steps=n)
        errors.append(relative_error(gradients[0], exact["vp"][0]))
    assert convergence_slope(steps, errors) > 4.8, errors


@functools.cache
def _exact(process: str, final_sigmas_type: str) -> list[Tensor]:
    return _gradients(process, Exact(), 20, final_sigmas_type)


@pytest.mark.parametrize("final_sigmas_type", ["zero", "sigma_min"])
@pytest.mark.parametrize("trajectory", ["recorded", "resolved"])
@pytest.mark.parametrize("process", ["scaled_linear", "flow"])
def test_every_form_gives_the_same_gradient(
    process: str, trajectory: Any, final_sigmas_type: str
) -> None:
    final = final_sigmas_type
    exact = _exact(process, final)
    for form in ("noise", "data", "flow", "angle"):
        if (process, form) == ("flow", "noise"):
            continue
        method = ContinuousAdjoint("rk4", trajectory=trajectory, form=form)
        for gradient, reference in zip(_gradients(process, method, 20, final), exact, strict=True):
            # Equal steps of time are long ones for the data form, at the image.
            assert relative_error(gradient, reference) < (0.02 if form == "data" else 1e-3), form


@pytest.mark.parametrize("trajectory", ["recorded", "resolved"])
@pytest.mark.parametrize("solver", ["heun", "bs3", "dopri5"])
def test_adaptive_steps_keep_their_tolerance(
    solver: str, trajectory: Any, exact: dict[str, list[Tensor]]
) -> None:
    errors, steps = [], []
    for rtol in (1e-2, 1e-4):
        notes = Notes()
        method = ContinuousAdjoint(solver, trajectory=trajectory, rtol=rtol)
        found = zip(_gradients("vp", method, observer=notes), exact["vp"], strict=True)
        errors.append(max(relative_error(gradient, reference) for gradient, reference in found))
        steps.append(len(notes.steps) - 1)
        assert errors[-1] < 5 * rtol
    assert errors[1] < errors[0]
    assert steps[1] > steps[0]


def test_a_rejected_step_leaves_nothing_behind() -> None:
    """A first step over all of the trajectory is rejected; sums are of accepted steps only."""
    network, schedule = SmallNetwork(), PROCESSES["flow"]
    noise = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    emb = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    plan = solvers.build(
        "dopri5", schedule, 1, "linspace", "flow_prediction", final_sigmas_type="sigma_min"
    )
    denoiser = Denoiser(network, schedule, "flow_prediction")
    calls, notes = [], Notes()
    method = ContinuousAdjoint("bs3", rtol=1e-5, trajectory="resolved")
    sampler = Sampler(denoiser, plan, method, observer=notes)
    handle = sampler.denoiser.register_forward_pre_hook(lambda *_: calls.append(None))
    sample = sampler(noise, emb=emb)
    forward = len(calls)
    found = torch.autograd.grad(sample.sum(), [noise, emb, *network.used])
    handle.remove()
    assert len(calls) - forward > 3 * (len(notes.steps) - 1) + 1, "no step was rejected"
    fine = ContinuousAdjoint("dopri5", num_steps=40, trajectory="resolved")
    reference = Sampler(denoiser, plan, fine)(noise, emb=emb)
    expected = torch.autograd.grad(reference.sum(), [noise, emb, *network.used])
    for gradient, value in zip(found, expected, strict=True):
        assert relative_error(gradient, value) < 1e-3


def test_steps_can_be_observed() -> None:
    notes = Notes()
    plan = solvers.build("ddim", PROCESSES["vp"], 10)
    noise = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    denoiser = Denoiser(SmallNetwork(), PROCESSES["vp"])
    sampler = Sampler(denoiser, plan, ContinuousAdjoint(), observer=notes)
    sample = sampler(noise, emb=torch.randn(2, 3, dtype=torch.float64))
    (gradient,) = torch.autograd.grad((sample**2).sum(), [noise])
    seen = notes.steps
    assert [point.t for point, _, _ in seen[1:]] == plan.timesteps.tolist()[::-1]
    torch.testing.assert_close(seen[0][1], sample)
    torch.testing.assert_close(seen[0][2], 2 * sample)
    torch.testing.assert_close(seen[-1][1], noise * plan.table[0, 0])
    torch.testing.assert_close(seen[-1][2] * plan.table[0, 0], gradient)


@pytest.mark.parametrize("process", ["vp", "edm", "flow"])
def test_resolved_trajectory_converges_too(process: str, exact: dict[str, list[Tensor]]) -> None:
    method = ContinuousAdjoint("rk4", num_steps=60, trajectory="resolved")
    for gradient, reference in zip(_gradients(process, method), exact[process], strict=True):
        assert relative_error(gradient, reference) < 1e-4


@pytest.mark.parametrize("trajectory", ["recorded", "resolved"])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_it_nears_the_exact_gradient_for_every_target(trajectory: Any, final: str) -> None:
    network, schedule = SmallNetwork(), PROCESSES["vp"]
    denoiser = Denoiser(network, schedule, "v_prediction", guidance_scale=2.0)
    plan = solvers.build(
        "heun", schedule, 150, prediction_type="v_prediction", final_sigmas_type=final
    )
    noise = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    emb = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    negative = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    targets = [noise, emb, negative, *network.used]
    results = []
    for method in (Exact(), ContinuousAdjoint(trajectory=trajectory)):
        sample = Sampler(denoiser, plan, method)(noise, emb=emb, negative_emb=negative)
        results.append(torch.autograd.grad((sample**3).sum(), targets))
    for gradient, reference in zip(results[1], results[0], strict=True):
        assert relative_error(gradient, reference) < 0.02


@pytest.mark.parametrize("num_steps", [None, 1, 7, 80])
def test_schedulers_of_diffusers(num_steps: int | None) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction")
    schedule = Schedule.from_config(scheduler.config)
    plan = Plan.from_scheduler(scheduler, 40)
    network = SmallNetwork()
    noise = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    emb = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    denoiser = Denoiser(network, schedule, "v_prediction")
    gradients = []
    for method in (Exact(), ContinuousAdjoint(num_steps=num_steps)):
        sample = Sampler(denoiser, plan, method)(noise, emb=emb)
        gradients.append(torch.autograd.grad(sample.sum(), [noise, emb]))
    for gradient, reference in zip(gradients[1], gradients[0], strict=True):
        cosine = torch.cosine_similarity(gradient.flatten(), reference.flatten(), dim=0)
        assert cosine > (0.99 if num_steps != 1 else -1)
        assert gradient.isfinite().all()


SHARP = GaussianMixture(stds=torch.tensor([0.1, 0.2, 0.15], dtype=torch.float64))
"""Its directions have little variance, as those of pictures: the last steps decide all."""
REVERSE = (
    ContinuousAdjoint(),
    ContinuousAdjoint("euler"),
    ContinuousAdjoint("ab2", form="noise"),
    ContinuousAdjoint(num_steps=6),
    ContinuousAdjoint(trajectory="resolved"),
)


def _few_steps(
    solver: str, steps: int, mixture: GaussianMixture, method: GradientMethod, notes: Notes
) -> list[Tensor]:
    schedule = PROCESSES["scaled_linear"]
    plan = solvers.build(solver, schedule, steps, prediction_type="v_prediction")
    denoiser = Denoiser(mixture.network(schedule, "v_prediction"), schedule, "v_prediction")
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(8, mixture.dim, dtype=torch.float64, generator=generator).requires_grad_()
    means = mixture.means.clone().requires_grad_()
    sample = Sampler(denoiser, plan, method, observer=notes)(noise, means=means)
    return list(torch.autograd.grad((sample**2).sum() + sample.sin().sum(), [noise, means]))


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "heun"])
def test_it_knows_its_error_at_few_steps(solver: str) -> None:
    """The estimate has the size of the error, up to all of the gradient, and rises with it."""
    pairs = []
    for steps, mixture in product((8, 24), (MIXTURE, SHARP)):
        exact = _few_steps(solver, steps, mixture, Exact(), Notes())
        for method in REVERSE:
            notes = Notes()
            found = _few_steps(solver, steps, mixture, method, notes)
            error = max(relative_error(g, e) for g, e in zip(found, exact, strict=True))
            (estimate,) = notes.error_estimates
            assert min(error, 1) < 6 * estimate + 0.02
            if mixture is MIXTURE:
                assert estimate < 6 * error + 0.3
            pairs.append((min(error, 1), estimate))
    ranks = torch.tensor(pairs).argsort(0).argsort(0).double()
    assert torch.corrcoef(ranks.T)[0, 1] > 0.7


@pytest.mark.parametrize("form", ["flow", "angle", "noise"])
def test_the_estimate_falls_with_the_error_in_every_form(form: Any) -> None:
    """It is of first order where the sampler is, and the sweep's own grid is that of the run."""
    estimates = []
    for steps in (30, 60):
        notes = Notes()
        _few_steps("ddim", steps, MIXTURE, ContinuousAdjoint(form=form), notes)
        estimates += notes.error_estimates
    assert 1.7 < estimates[0] / estimates[1] < 2.4


def test_it_warns_of_a_large_error_and_of_no_other() -> None:
    with pytest.warns(InaccurateGradientWarning, match=r"8 reverse steps for 8 network calls"):
        _few_steps("ddim", 8, SHARP, ContinuousAdjoint("euler"), Notes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _few_steps("ddim", 20, MIXTURE, ContinuousAdjoint(), Notes())


def test_memory_of_the_resolved_trajectory_is_the_sample_alone() -> None:
    plan = solvers.build("ddim", PROCESSES["vp"], 50)
    sampler = Sampler(
        Denoiser(SmallNetwork(), PROCESSES["vp"]), plan, ContinuousAdjoint(trajectory="resolved")
    )
    noise = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    emb = torch.randn(2, 3, dtype=torch.float64)
    sample = sampler(noise, emb=emb)
    assert sample.grad_fn is not None
    assert not sample.grad_fn.sweep._recorded  # type: ignore[attr-defined]


def test_what_has_no_ode_is_refused() -> None:
    schedule = PROCESSES["scaled_linear"]
    plan = Plan.from_scheduler(diffusers.DDPMScheduler(clip_sample=False), 5)
    noise = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    emb = torch.randn(2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"draws noise; use Exact\(\)"):
        Sampler(Denoiser(SmallNetwork(), schedule), plan, ContinuousAdjoint())(noise, emb=emb)
    plan = Plan.from_scheduler(diffusers.DDIMScheduler(clip_sample=False), 5)
    with pytest.raises(ValueError, match="another noise schedule"):
        Sampler(Denoiser(SmallNetwork(), PROCESSES["vp"]), plan, ContinuousAdjoint())(
            noise, emb=emb
        )


def test_a_form_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="noise form is not finite at both ends"):
        _gradients("flow", ContinuousAdjoint(form="noise"), steps=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": "nothing"}, "solver 'nothing'"),
        ({"num_steps": 0}, "at least 1"),
        ({"trajectory": "nothing"}, "recorded or resolved"),
        ({"form": "nothing"}, "form must be one of auto, noise"),
        ({"atol": 1e-3}, "atol goes with rtol"),
        ({"rtol": -1.0}, "tolerances must be positive"),
        ({"rtol": 1e-3, "num_steps": 5}, "both choose the steps"),
        ({"rtol": 1e-3, "solver": "rk4"}, "rk4 has no error estimate"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContinuousAdjoint(**arguments)
