"""torchdiffeq as the engine of the sampling ODE and of its adjoint."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
import torch
from mixtures import PROCESSES, GaussianMixture

from adjointdpm import Denoiser, Exact, Sampler, Schedule, solvers

pytest.importorskip("torchdiffeq")

from adjointdpm.baselines.torchdiffeq import odeint, rates

MIXTURE = GaussianMixture()
NOISE = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


class _Network(torch.nn.Module):
    """The exact denoiser, with a weight and a conditioning that it multiplies and adds."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.network = MIXTURE.network(schedule, "v_prediction")
        self.weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: torch.Tensor, t: torch.Tensor, move: torch.Tensor) -> torch.Tensor:
        return self.weight * self.network(x, t) + move


def _denoiser(process: str) -> Denoiser:
    schedule = PROCESSES[process]
    return Denoiser(_Network(schedule), schedule, "v_prediction")


MOVE = torch.tensor([[0.1, -0.2, 0.3]], dtype=torch.float64)


@pytest.fixture(scope="module")
def references() -> dict[str, torch.Tensor]:
    samples = {}
    for process in ("vp", "edm", "flow", "scaled_linear"):
        denoiser = _denoiser(process)
        plan = solvers.adaptive(
            denoiser, NOISE, {"move": MOVE}, rtol=1e-7, atol=1e-7, final_sigmas_type="sigma_min"
        )
        with torch.no_grad():
            samples[process] = Sampler(denoiser, plan)(NOISE, move=MOVE)
    return samples


@pytest.mark.parametrize("form", [None, "x", "angle"])
@pytest.mark.parametrize("process", ["vp", "edm", "flow", "scaled_linear"])
def test_every_form_solves_the_same_ode(
    process: str, form: Any, references: dict[str, torch.Tensor]
) -> None:
    with torch.no_grad():
        solution = odeint(
            _denoiser(process), NOISE, {"move": MOVE}, form=form, rtol=1e-6, atol=1e-6,
            final_sigmas_type="sigma_min",
        )  # fmt: skip
    torch.testing.assert_close(solution.sample, references[process], atol=3e-4, rtol=0)
    assert solution.num_calls > 20


@pytest.mark.parametrize("method", ["rk4", "implicit_adams", "explicit_adams", "bosh3"])
def test_other_methods(method: str, references: dict[str, torch.Tensor]) -> None:
    schedule = PROCESSES["flow"]
    grid = solvers.grid(schedule, 60, final_sigmas_type="sigma_min")
    with torch.no_grad():
        solution = odeint(
            _denoiser("flow"), NOISE, {"move": MOVE}, method=method, grid=grid,
            final_sigmas_type="sigma_min",
        )  # fmt: skip
    torch.testing.assert_close(solution.sample, references["flow"], atol=5e-3, rtol=0)


def test_a_fixed_step_method_is_our_plan() -> None:
    """rk4 of torchdiffeq is the 3/8 rule; its midpoint rule is the same as ours."""
    denoiser, schedule = _denoiser("vp"), PROCESSES["vp"]
    grid = solvers.grid(schedule, 12)
    plan = solvers.build("midpoint", schedule, 12, prediction_type="v_prediction")
    with torch.no_grad():
        ours = Sampler(denoiser, plan)(NOISE, move=MOVE)
        theirs = odeint(denoiser, NOISE, {"move": MOVE}, method="midpoint", grid=grid)
    torch.testing.assert_close(theirs.sample, ours, rtol=1e-8, atol=1e-8)
    assert theirs.num_calls == plan.num_calls


def _gradients(denoiser: Denoiser, run: Any) -> list[torch.Tensor]:
    noise, move = NOISE.clone().requires_grad_(), MOVE.clone().requires_grad_()
    denoiser.zero_grad()
    run(noise, move).square().sum().backward()
    weight = denoiser.network.weight.grad
    assert noise.grad is not None
    assert move.grad is not None
    return [noise.grad, move.grad, weight.clone()]


@pytest.fixture(scope="module")
def exact() -> list[torch.Tensor]:
    denoiser = _denoiser("flow")
    plan = solvers.build("rk4", PROCESSES["flow"], 60, prediction_type="v_prediction")
    return _gradients(denoiser, lambda z, move: Sampler(denoiser, plan, Exact())(z, move=move))


@pytest.mark.parametrize("form", [None, "x"])
@pytest.mark.parametrize("gradient", ["adjoint", "backprop"])
def test_gradients_of_noise_conditioning_and_weights(
    gradient: Any, form: Any, exact: list[torch.Tensor]
) -> None:
    denoiser = _denoiser("flow")

    def run(noise: torch.Tensor, move: torch.Tensor) -> torch.Tensor:
        tolerances = {"rtol": 1e-6, "atol": 1e-6}
        cond = {"move": move}
        return odeint(denoiser, noise, cond, gradient=gradient, form=form, **tolerances).sample

    for theirs, ours in zip(_gradients(denoiser, run), exact, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=2e-3, atol=1e-3)


def test_the_adjoint_on_a_fixed_grid_runs_it_backwards() -> None:
    denoiser, schedule = _denoiser("vp"), PROCESSES["vp"]
    grid = solvers.grid(schedule, 10, final_sigmas_type="sigma_min")
    noise = NOISE.clone().requires_grad_()
    solution = odeint(
        denoiser, noise, {"move": MOVE}, method="euler", grid=grid, final_sigmas_type="sigma_min"
    )
    assert solution.num_calls == solution.counter() == 10
    solution.sample.sum().backward()
    assert solution.counter() == 20


@pytest.mark.parametrize("form", ["x", "noise", "data"])
def test_float32(form: Any) -> None:
    schedule = PROCESSES["scaled_linear"]
    denoiser = Denoiser(lambda x, t: (0.5 * x).tanh(), schedule)
    noise = NOISE.to(torch.float32).requires_grad_()
    solution = odeint(denoiser, noise, form=form, rtol=1e-3, atol=1e-3)
    solution.sample.sum().backward()
    assert solution.sample.dtype == torch.float32
    assert noise.grad is not None
    assert noise.grad.isfinite().all()


def test_high_order_adams_is_refused() -> None:
    grid = solvers.grid(PROCESSES["vp"], 30)
    for method in ("explicit_adams", "implicit_adams"):
        with pytest.raises(ValueError, match="max_order=4"):
            odeint(
                _denoiser("vp"), NOISE, {"move": MOVE}, method=method, grid=grid,
                options={"max_order": 12},
            )  # fmt: skip


def test_what_cannot_be_is_refused() -> None:
    denoiser, cond = _denoiser("flow"), {"move": MOVE}
    with pytest.raises(ValueError, match="takes fixed steps"):
        odeint(denoiser, NOISE, cond, method="rk4")
    with pytest.raises(ValueError, match="gradient must be"):
        odeint(denoiser, NOISE, cond, gradient="nothing")
    with pytest.raises(ValueError, match="for gradient='adjoint'"):
        odeint(denoiser, NOISE, cond, gradient="backprop", adjoint_rtol=1e-3)
    with pytest.raises(ValueError, match="not finite on this schedule"):
        odeint(denoiser, NOISE, cond, form="noise")


def test_without_torchdiffeq_the_message_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imported = builtins.__import__

    def missing(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "torchdiffeq":
            raise ImportError(name)
        return imported(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="pip install torchdiffeq"):
        odeint(_denoiser("vp"), NOISE, {"move": MOVE})


@pytest.mark.parametrize("process", PROCESSES)
def test_rates_are_derivatives(process: str) -> None:
    schedule = PROCESSES[process]
    t = schedule.t_min + 0.37 * (schedule.t_max - schedule.t_min)
    h = 1e-6 * schedule.t_max
    expected = [
        (function(t + h) - function(t - h)) / (2 * h)
        for function in (schedule.alpha, schedule.sigma)
    ]
    np.testing.assert_allclose(rates(schedule, t), expected, rtol=1e-5, atol=1e-9)
