"""Embedded pairs that choose their own steps."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from mixtures import PROCESSES, GaussianMixture, dense_sample

from adjointdpm import Backprop, Denoiser, Exact, Sampler, Schedule, sample_each, solvers
from adjointdpm.solvers import PAIRS
from adjointdpm.solvers.runge_kutta import step

MIXTURE = GaussianMixture()
NOISE = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _denoiser(process: str) -> Denoiser:
    schedule = PROCESSES[process]
    return Denoiser(MIXTURE.network(schedule, "v_prediction"), schedule, "v_prediction")


@pytest.mark.parametrize("solver", PAIRS)
def test_error_estimates_have_their_order(solver: str) -> None:
    """On du/dt = u the estimate falls as h to the power that the controller is told."""
    pair, estimates = PAIRS[solver], []
    assert sum(pair.error) == pytest.approx(0, abs=1e-15)
    for h in (0.1, 0.05):
        ahead, slopes = step(pair.tableau, lambda u, t, **_: u, np.ones(1), 0.0, h)
        slopes = [*slopes, ahead][: len(pair.error)]
        estimates.append(abs(h * sum(w * s for w, s in zip(pair.error, slopes, strict=True)))[0])
    assert np.log2(estimates[0] / estimates[1]) == pytest.approx(pair.error_order, abs=0.2)


END: dict[str, Any] = {"final_sigmas_type": "sigma_min"}


@functools.cache
def _reference(process: str) -> torch.Tensor:
    denoiser = _denoiser(process)
    exact = solvers.adaptive(denoiser, NOISE, solver="dopri5", rtol=1e-9, atol=1e-9, **END)
    return dense_sample(exact, denoiser.network, NOISE)


@pytest.mark.parametrize("process", ["vp", "ve", "edm", "flow", "scaled_linear"])
@pytest.mark.parametrize("solver", PAIRS)
def test_the_tolerance_is_kept(solver: str, process: str) -> None:
    denoiser = _denoiser(process)
    reference = _reference(process)
    errors, calls = [], []
    tolerances = (1e-2, 1e-4) if solver == "heun" else (1e-3, 1e-6)
    for tolerance in tolerances:
        plan = solvers.adaptive(
            denoiser, NOISE, solver=solver, rtol=tolerance, atol=tolerance, **END
        )
        errors.append(float((dense_sample(plan, denoiser.network, NOISE) - reference).abs().max()))
        calls.append(plan.num_calls)
    assert errors[0] < 20 * tolerances[0]
    assert errors[1] < 20 * tolerances[1]
    assert calls[1] > calls[0]


@pytest.mark.parametrize("form", ["noise", "data", "angle", "flow"])
def test_every_form(form: Any) -> None:
    denoiser = _denoiser("vp")
    settings = {"rtol": 1e-5, "atol": 1e-5}
    plan = solvers.adaptive(denoiser, NOISE, form=form, **settings)
    other = solvers.adaptive(denoiser, NOISE, **settings)
    torch.testing.assert_close(
        dense_sample(plan, denoiser.network, NOISE),
        dense_sample(other, denoiser.network, NOISE),
        atol=1e-3,
        rtol=0,
    )


def test_the_plan_repeats_the_accepted_steps() -> None:
    """The calls of the plan are those of the search, rejected ones and its first guess apart."""
    denoiser, seen = _denoiser("flow"), []
    network = denoiser.network

    def recording(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append((float(t[0]), x))
        return network(x, t)

    denoiser.network = recording
    plan = solvers.adaptive(denoiser, NOISE, solver="bs3", rtol=1e-2, atol=1e-2)
    searched = list(seen)
    seen.clear()
    dense_sample(plan, recording, NOISE)
    for t, x in seen:
        assert any(abs(t - s) < 1e-12 and torch.allclose(x, y, atol=1e-9) for s, y in searched)
    assert "accepted" in plan.name


def test_gradient_is_that_of_the_frozen_grid() -> None:
    denoiser = _denoiser("vp")
    plan = solvers.adaptive(denoiser, NOISE, rtol=1e-2, atol=1e-2)
    gradients = []
    for method in (Exact(), Backprop()):
        noise = NOISE.clone().requires_grad_()
        Sampler(denoiser, plan, method)(noise).square().sum().backward()
        gradients.append(noise.grad)
    torch.testing.assert_close(*gradients)


def test_a_grid_for_each_sample() -> None:
    denoiser = _denoiser("vp")
    schedule = denoiser.schedule
    network = MIXTURE.network(schedule, "v_prediction")
    # The means are as many as the samples here, and must not be taken for one a sample.
    denoiser.network = lambda x, t, means, move: network(x + move, t, means[0])
    means = MIXTURE.means.clone().requires_grad_()
    cond = {"means": means[None], "move": 0.1 * NOISE}
    settings = {"rtol": 1e-3, "atol": 1e-3, "solver": "bs3"}
    plans = solvers.adaptive(denoiser, NOISE, cond, per_sample=True, **settings)
    assert len(plans) == len(NOISE)
    alone = {"means": means[None], "move": 0.1 * NOISE[1:2]}
    np.testing.assert_array_equal(
        plans[1].table, solvers.adaptive(denoiser, NOISE[1:2], alone, **settings).table
    )
    samples = sample_each(denoiser, plans, NOISE, **cond)
    torch.testing.assert_close(samples[1:2], Sampler(denoiser, plans[1])(NOISE[1:2], **alone))
    samples.sum().backward()
    assert samples.shape == NOISE.shape
    assert means.grad is not None
    with pytest.raises(ValueError, match="as many plans"):
        sample_each(denoiser, plans[:2], NOISE, **cond)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "euler"}, "no embedded pair"),
        ({"rtol": -1.0}, "tolerances"),
        ({"rtol": 0.0, "atol": 0.0}, "tolerances"),
        ({"final_sigmas_type": "nothing"}, "final_sigmas_type"),
        ({"form": "nothing"}, "form 'nothing'"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solvers.adaptive(_denoiser("vp"), NOISE, **settings)


def test_half_precision_noise_and_float32() -> None:
    schedule = PROCESSES["scaled_linear"]
    denoiser = Denoiser(lambda x, t: (0.5 * x).tanh(), schedule)
    for dtype in (torch.float32, torch.bfloat16):
        plan = solvers.adaptive(denoiser, NOISE.to(dtype), solver="bs3", rtol=1e-2, atol=1e-2)
        assert Sampler(denoiser, plan)(NOISE.to(dtype)).isfinite().all()


def test_a_form_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite on this schedule"):
        solvers.adaptive(_denoiser("flow"), NOISE, form="noise")


def test_too_many_steps() -> None:
    with pytest.raises(RuntimeError, match="5 steps were not enough"):
        solvers.adaptive(_denoiser("vp"), NOISE, rtol=1e-9, atol=1e-9, max_steps=5)
    schedule = Schedule.vp_linear()
    broken = Denoiser(lambda x, t: x * float("nan"), schedule)
    with pytest.raises(RuntimeError):
        solvers.adaptive(broken, NOISE)
