"""The partitioned pair: equal to the exact gradient, from the states at step starts alone."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import diffusers
import pytest
import torch
from mixtures import PROCESSES
from networks import SmallNetwork, objective, relative_error, some_emb, some_noise
from torch import Tensor

from adjointdpm import Denoiser, Exact, Plan, Sampler, Schedule, Symplectic, solvers
from adjointdpm.prediction import PREDICTION_TYPES

STEPS = 6
ONE_STEP = ["ddim", "euler", "heun", "midpoint", "ralston", "bs3", "rk4", "dopri5"]


def _assert_symplectic_is_exact(denoiser: Denoiser, plan: Plan, **cond: Any) -> None:
    noise = some_noise()
    targets = [noise, *cond.values(), *denoiser.network.used]
    if plan.num_draws:
        cond["draws"] = torch.randn(plan.num_draws, *noise.shape, dtype=noise.dtype)
        targets.append(cond["draws"].requires_grad_())
    results = []
    for method in (Exact(), Symplectic()):
        torch.manual_seed(3)
        sample = Sampler(denoiser, plan, method)(noise, **cond)
        results.append((sample, torch.autograd.grad(objective(sample), targets)))
    (expected_sample, expected), (sample, gradients) = results
    assert torch.equal(sample, expected_sample)
    for gradient, reference in zip(gradients, expected, strict=True):
        assert relative_error(gradient, reference) < 1e-11


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize(
    ("process", "form"),
    [("vp", "noise"), ("vp", "data"), ("edm", "flow"), ("scaled_linear", "angle")],
)
@pytest.mark.parametrize("solver", ONE_STEP)
def test_equal_to_exact(solver: str, process: str, form: Any, prediction_type: str) -> None:
    schedule = PROCESSES[process]
    chosen = None if solver == "ddim" else form
    plan = solvers.build(solver, schedule, STEPS, prediction_type=prediction_type, form=chosen)
    denoiser = Denoiser(SmallNetwork(), schedule, prediction_type)
    _assert_symplectic_is_exact(denoiser, plan, emb=some_emb())


@pytest.mark.parametrize("solver", ["ddim", "midpoint", "dopri5"])
@pytest.mark.parametrize("end", ["zero", "sigma_min"])
def test_from_starts_without_data(solver: str, end: str) -> None:
    schedule = PROCESSES["flow"]
    plan = solvers.build(
        solver, schedule, STEPS, prediction_type="flow_prediction", final_sigmas_type=end
    )
    denoiser = Denoiser(SmallNetwork(), schedule, "flow_prediction")
    _assert_symplectic_is_exact(denoiser, plan, emb=some_emb())


@pytest.mark.parametrize("solver", ["euler_ancestral", "edm_churn", "dpm_solver_3", "dpmpp_2s"])
def test_other_one_step_methods(solver: str) -> None:
    """Stochastic steps and exponential single-step methods are one-step methods too."""
    plan = solvers.build(solver, PROCESSES["vp"], STEPS)
    denoiser = Denoiser(SmallNetwork(), PROCESSES["vp"])
    _assert_symplectic_is_exact(denoiser, plan, emb=some_emb())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "settings", "lengths"),
    [
        ("DDIMScheduler", {"clip_sample": False}, {1}),
        ("DDPMScheduler", {"clip_sample": False}, {1}),
        ("EulerDiscreteScheduler", {}, {1}),
        ("EulerAncestralDiscreteScheduler", {}, {1}),
        ("HeunDiscreteScheduler", {}, {1, 2}),
        ("KDPM2DiscreteScheduler", {}, {1, 2}),
        ("KDPM2AncestralDiscreteScheduler", {}, {1, 2}),
        ("DPMSolverSinglestepScheduler", {"solver_order": 2}, {1, 2}),
    ],
)
def test_schedulers_of_diffusers(name: str, settings: dict[str, Any], lengths: set[int]) -> None:
    from adjointdpm.gradients.symplectic import one_step_parts

    scheduler = getattr(diffusers, name)(**settings)
    plan = Plan.from_scheduler(scheduler, STEPS)
    assert {step.program.num_calls for step in one_step_parts(plan)} == lengths
    denoiser = Denoiser(SmallNetwork(), Schedule.from_config(scheduler.config))
    _assert_symplectic_is_exact(denoiser, plan, emb=some_emb())


def test_a_stage_that_reads_a_draw() -> None:
    """Noise drawn within a step: the stage that reads it is stored, since it is drawn once."""
    table = [
        [1.0, 0, 0, 0, 0, 0, 0],
        [0.9, 0.2, 0, 0, 0, 0.3, 0],
        [0.8, 0.1, 0.4, 0, 0, 0.2, 0],
        [0.72, 0.09, 0.36, -0.3, 0, 0.18, 0.5],
        [0.8, 0.1, 0.4, -0.1, -0.6, 0.2, 0.1],
    ]
    plan = Plan([4.0, 3.0, 2.0, 1.0], table, num_draws=2, step_starts=(0, 2))
    denoiser = Denoiser(SmallNetwork(), PROCESSES["vp"])
    _assert_symplectic_is_exact(denoiser, plan, emb=some_emb())


@pytest.mark.parametrize("passes", ["batched", "sequential"])
def test_through_guidance_dropout_and_nested_conditioning(passes: Any) -> None:
    denoiser = Denoiser(
        SmallNetwork(dropout=0.3),
        PROCESSES["vp"],
        "v_prediction",
        guidance_scale=3.0,
        guidance_rescale=0.5,
        guidance_passes=passes,
    )
    plan = solvers.build("rk4", PROCESSES["vp"], STEPS, prediction_type="v_prediction")
    _assert_symplectic_is_exact(denoiser, plan, emb=some_emb(), negative_emb=some_emb(1))


def test_autocast_is_the_same_when_run_again() -> None:
    denoiser = Denoiser(SmallNetwork(dtype=torch.float32), PROCESSES["vp"])
    plan = solvers.build("heun", PROCESSES["vp"], STEPS)
    noise = torch.randn(3, 4, requires_grad=True)
    emb = torch.randn(3, 3, requires_grad=True)
    gradients = []
    for method in (Exact(), Symplectic()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            sample = Sampler(denoiser, plan, method)(noise, emb=emb)
        gradients.append(torch.autograd.grad(sample.sum(), [noise, emb]))
    for gradient, reference in zip(gradients[1], gradients[0], strict=True):
        assert relative_error(gradient, reference) < 1e-3


def test_several_uses_before_backward_and_unused_weights() -> None:
    network, emb = SmallNetwork(), some_emb()
    denoiser = Denoiser(network, PROCESSES["vp"])
    plan = solvers.build("midpoint", PROCESSES["vp"], STEPS)
    noises = [some_noise().detach(), some_noise().detach()]
    gradients = {}
    for method in (Exact(), Symplectic()):
        network.zero_grad()
        emb.grad = None
        samples = [Sampler(denoiser, plan, method)(noise, emb=emb) for noise in noises]
        torch.stack([objective(sample) for sample in samples]).sum().backward()
        gradients[type(method)] = [emb.grad, *(p.grad for p in network.used)]
        assert network.unused.weight.grad is None
    for gradient, reference in zip(gradients[Symplectic], gradients[Exact], strict=True):
        assert relative_error(gradient, reference) < 1e-11


def test_only_step_starts_are_stored_and_calls_are_counted() -> None:
    network = SmallNetwork()
    alive: dict[int, weakref.ref[Tensor]] = {}
    calls = 0

    def remember(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal calls
        if not output.requires_grad:  # calls that get a graph run on leaves of their own
            alive[calls] = weakref.ref(inputs[0])
        calls += 1

    network.register_forward_hook(remember)
    plan = solvers.build("rk4", PROCESSES["vp"], STEPS, final_sigmas_type="sigma_min")
    gc.disable()
    try:
        sample = Sampler(Denoiser(network, PROCESSES["vp"]), plan, Symplectic())(
            some_noise(), emb=some_emb()
        )
        held = [k for k, reference in alive.items() if reference() is not None]
        assert calls == plan.num_calls == 4 * STEPS
        assert held == [k for k in range(0, 4 * STEPS, 4) if k in alive]
        assert len(held) >= 2
        sample.sum().backward()
        assert calls == 4 * STEPS + (3 + 4) * STEPS
        del sample
        assert not [k for k, reference in alive.items() if reference() is not None]
    finally:
        gc.enable()


@pytest.mark.parametrize("solver", ["ab2", "ab4", "am3", "dpmpp_2m", "unipc_bh2_3", "sde_dpmpp_2m"])
def test_multistep_plans_are_refused(solver: str) -> None:
    plan = solvers.build(solver, PROCESSES["vp"], 12)
    sampler = Sampler(Denoiser(SmallNetwork(), PROCESSES["vp"]), plan, Symplectic())
    with pytest.raises(ValueError, match=r"one-step.*earlier steps.*Exact\(\)"):
        sampler(some_noise(), emb=some_emb())


def test_second_derivatives_are_refused() -> None:
    plan = solvers.build("heun", PROCESSES["vp"], STEPS)
    noise = some_noise()
    sample = Sampler(Denoiser(SmallNetwork(), PROCESSES["vp"]), plan, Symplectic())(
        noise, emb=some_emb()
    )
    with pytest.raises(RuntimeError, match="Symplectic gives first derivatives only"):
        torch.autograd.grad(sample.sum(), noise, create_graph=True)
