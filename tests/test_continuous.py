"""The continuous adjoint: it converges to the gradient, at the order of its solver."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from mixtures import PROCESSES, GaussianMixture, convergence_slope
from networks import SmallNetwork, relative_error
from torch import Tensor

from adjointdpm import ContinuousAdjoint, Denoiser, Exact, Plan, Sampler, Schedule, solvers

MIXTURE = GaussianMixture()
FINE = 120


def _gradients(process: str, method: Any, steps: int = FINE) -> list[Tensor]:
    schedule = PROCESSES[process]
    spacing = "exponential" if process == "edm" else "linspace"
    plan = solvers.build(
        "rk4", schedule, steps, spacing, "v_prediction", final_sigmas_type="sigma_min"
    )
    denoiser = Denoiser(MIXTURE.network(schedule, "v_prediction"), schedule, "v_prediction")
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(4, MIXTURE.dim, dtype=torch.float64, generator=generator).requires_grad_()
    means = MIXTURE.means.clone().requires_grad_()
    sample = Sampler(denoiser, plan, method)(noise, means=means)
    return list(torch.autograd.grad((sample**2).sum() + sample.sin().sum(), [noise, means]))


@pytest.fixture(scope="module")
def exact() -> dict[str, list[Tensor]]:
    return {process: _gradients(process, Exact()) for process in ("vp", "edm", "flow")}


@pytest.mark.parametrize("process", ["vp", "edm", "flow"])
@pytest.mark.parametrize(
    ("solver", "order", "steps"),
    [("euler", 1, [40, 80]), ("heun", 2, [25, 50]), ("rk4", 4, [10, 20]), ("ab2", 2, [40, 80])],
)
def test_error_falls_at_the_order_of_the_solver(
    process: str, solver: str, order: int, steps: list[int], exact: dict[str, list[Tensor]]
) -> None:
    gradients = [_gradients(process, ContinuousAdjoint(solver, num_steps=n)) for n in steps]
    for target, reference in enumerate(exact[process]):
        errors = [relative_error(gradient[target], reference) for gradient in gradients]
        assert convergence_slope(steps, errors) > order - 0.3, errors


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": "nothing"}, "solver 'nothing'"),
        ({"num_steps": 0}, "at least 1"),
        ({"trajectory": "nothing"}, "recorded or resolved"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContinuousAdjoint(**arguments)
