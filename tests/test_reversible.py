"""Reversible samplers: the exact gradient of their own table, with no state stored."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import diffusers
import pytest
import torch
from mixtures import PROCESSES, GaussianMixture, convergence_slope
from networks import SmallNetwork, objective, relative_error, some_emb, some_noise
from observers import Notes
from torch import Tensor

from adjointdpm import Denoiser, Exact, GradientMethod, Plan, Reversible, Sampler, Schedule, solvers
from adjointdpm.form import Point
from adjointdpm.prediction import PREDICTION_TYPES

STEPS = 6
METHODS: dict[str, dict[str, Any]] = {
    "euler": {},
    "heun": {"solver": "heun", "coupling": 0.99},
    "midpoint": {"solver": "midpoint"},
    "bdia": {"family": "bdia"},
    "bdia_damped": {"family": "bdia", "coupling": 0.9},
    "belm": {"family": "belm"},
}


def _plan(
    process: str, prediction_type: str = "epsilon", steps: int = STEPS, **kwargs: Any
) -> Plan:
    schedule = PROCESSES[process]
    return solvers.build("ddim", schedule, steps, prediction_type=prediction_type, **kwargs)


def _assert_exact(
    denoiser: Denoiser, plan: Plan, settings: dict[str, Any], tolerance: float = 1e-9, **cond: Any
) -> None:
    """Check the gradient against `Exact` on the reversible method's own table."""
    notes, method = Notes(), Reversible(**settings)
    own = method.reference_plan(plan, denoiser.schedule)
    noise = some_noise().to(next(denoiser.network.parameters()).dtype).detach().requires_grad_()
    targets = [noise, *cond.values(), *denoiser.network.used]
    results = []
    judged = Sampler(denoiser, plan, method, observer=notes)
    for sampler in (Sampler(denoiser, own, Exact()), judged):
        torch.manual_seed(3)
        sample = sampler(noise, **cond)
        results.append((sample, torch.autograd.grad(objective(sample), targets)))
    (expected_sample, expected), (sample, gradients) = results
    assert relative_error(sample.detach(), expected_sample.detach()) < tolerance
    for gradient, reference in zip(gradients, expected, strict=True):
        assert gradient.dtype == reference.dtype
        assert relative_error(gradient, reference) < tolerance
    assert len(notes.round_trips) == 1
    # The state is walked back to 1e-16, but where an entry of it lies at the edge of two float32
    # numbers, a float32 network answers with the other: one rounding, 6e-8, of one entry.
    assert notes.round_trips[0] < (1e-9 if noise.dtype == torch.float64 else 6e-8)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("process", ["vp", "edm", "scaled_linear"])
@pytest.mark.parametrize("name", METHODS)
def test_equal_to_exact_on_its_own_table(name: str, process: str, prediction_type: str) -> None:
    denoiser = Denoiser(SmallNetwork(), PROCESSES[process], prediction_type)
    _assert_exact(denoiser, _plan(process, prediction_type), METHODS[name], emb=some_emb())


@pytest.mark.parametrize("steps", [1, 2, 3, 9])
@pytest.mark.parametrize("end", ["zero", "sigma_min"])
@pytest.mark.parametrize("name", ["euler", "heun", "bdia", "belm"])
def test_both_ends_from_starts_without_data(name: str, end: str, steps: int) -> None:
    denoiser = Denoiser(SmallNetwork(), PROCESSES["flow"], "flow_prediction")
    plan = _plan("flow", "flow_prediction", steps, final_sigmas_type=end)
    _assert_exact(denoiser, plan, METHODS[name], emb=some_emb())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["euler", "bdia", "belm"])
@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDIMScheduler(clip_sample=False),
        diffusers.DPMSolverMultistepScheduler(),
        diffusers.HeunDiscreteScheduler(),
        diffusers.FlowMatchEulerDiscreteScheduler(),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_on_the_grid_of_schedulers(scheduler: Any, name: str) -> None:
    plan = Plan.from_scheduler(scheduler, STEPS)
    schedule = Schedule.from_config(scheduler.config)
    denoiser = Denoiser(SmallNetwork(), schedule, plan.prediction_type or "")
    _assert_exact(denoiser, plan, METHODS[name], emb=some_emb())


@pytest.mark.parametrize("name", ["heun", "bdia"])
def test_through_guidance_and_dropout(name: str) -> None:
    denoiser = Denoiser(
        SmallNetwork(dropout=0.3),
        PROCESSES["vp"],
        "v_prediction",
        guidance_scale=3.0,
        guidance_rescale=0.5,
        clip_sample=True,
        clip_sample_range=2.0,
    )
    plan = _plan("vp", "v_prediction")
    _assert_exact(denoiser, plan, METHODS[name], emb=some_emb(), negative_emb=some_emb(1))


@pytest.mark.parametrize("name", METHODS)
def test_a_float32_network_is_walked_back_in_float64(name: str) -> None:
    denoiser = Denoiser(SmallNetwork(dtype=torch.float32), PROCESSES["vp"])
    emb = torch.randn(3, 3, requires_grad=True)
    _assert_exact(denoiser, _plan("vp", steps=40), METHODS[name], tolerance=1e-3, emb=emb)


@pytest.mark.parametrize("name", ["euler", "belm"])
def test_autocast_is_the_same_when_run_again(name: str) -> None:
    notes = Notes()
    sampler = Sampler(
        Denoiser(SmallNetwork(dtype=torch.float32), PROCESSES["vp"]),
        _plan("vp"),
        Reversible(**METHODS[name]),
        observer=notes,
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sample = sampler(torch.randn(3, 4), emb=torch.randn(3, 3, requires_grad=True))
    sample.sum().backward()
    assert notes.round_trips[0] < 1e-9


def _hand_written(
    family: str, coupling: float, x: Tensor, points: list[Point], predict: Callable[..., Tensor]
) -> Tensor:
    """The three samplers as in their papers, on states, for a network that predicts eps."""

    def ddim(x: Tensor, eps: Tensor, start: Point, end: Point) -> Tensor:
        return end.alpha * (x - start.sigma * eps) / start.alpha + end.sigma * eps

    def sample(u: Tensor, point: Point) -> Tensor:
        x = point.sigma * u
        return (x - point.sigma * predict(x, point)) / point.alpha

    if family == "mccallum_foster":
        y = z = x / points[0].sigma
        for start, end in pairwise(points):
            h = end.alpha / end.sigma - start.alpha / start.sigma
            y = coupling * y + (1 - coupling) * z + h * sample(z, start)
            z = z + h * sample(y, end)
        return points[-1].sigma * y
    older, here = x, ddim(x, predict(x, points[0]), *points[:2])
    for o, p, n in zip(points, points[1:], points[2:], strict=False):
        eps = predict(here, p)
        if family == "bdia":
            change = coupling * (older - here - (ddim(here, eps, p, o) - here))
            older, here = here, change + here + (ddim(here, eps, p, n) - here)
        else:
            h = p.sigma / p.alpha - n.sigma / n.alpha
            last_h = o.sigma / o.alpha - p.sigma / p.alpha
            newer = (
                h**2 / last_h**2 * n.alpha / o.alpha * older
                + (last_h**2 - h**2) / last_h**2 * n.alpha / p.alpha * here
                - h * (h + last_h) / last_h * n.alpha * eps
            )
            older, here = here, newer
    return here


@pytest.mark.parametrize("process", ["vp", "edm"])
@pytest.mark.parametrize(
    ("family", "coupling"), [("mccallum_foster", 0.9), ("bdia", 0.8), ("belm", 1.0)]
)
def test_the_samplers_are_those_of_their_papers(family: Any, coupling: float, process: str) -> None:
    schedule, mixture = PROCESSES[process], GaussianMixture()
    network = mixture.network(schedule, "epsilon")
    points = solvers.grid(schedule, 9, final_sigmas_type="sigma_min")
    noise = torch.randn(5, mixture.dim, dtype=torch.float64)
    start = schedule.init_noise_sigma(points[0].t) * noise

    def predict(x: Tensor, point: Point) -> Tensor:
        return network(x, torch.full((len(x),), point.t, dtype=x.dtype))

    expected = _hand_written(family, coupling, start, points, predict)
    plan = solvers.build("ddim", schedule, 9, final_sigmas_type="sigma_min")
    method = Reversible(family=family, coupling=coupling)
    sample = Sampler(Denoiser(network, schedule), plan, method)(noise)
    assert relative_error(sample, expected) < 1e-11


def _mixture_sample(process: str, solver: str, steps: int, method: GradientMethod) -> Tensor:
    schedule, mixture = PROCESSES[process], GaussianMixture()
    spacing = "exponential" if process == "edm" else "linspace"
    denoiser = Denoiser(mixture.network(schedule, "v_prediction"), schedule, "v_prediction")
    plan = solvers.build(
        solver, schedule, steps, spacing, "v_prediction", final_sigmas_type="sigma_min"
    )
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(16, mixture.dim, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        return Sampler(denoiser, plan, method)(noise)


@pytest.fixture(scope="module")
def solutions() -> dict[str, Tensor]:
    return {name: _mixture_sample(name, "rk4", 80, Exact()) for name in ("vp", "edm", "flow")}


@pytest.mark.parametrize("process", ["vp", "edm", "flow"])
@pytest.mark.parametrize(
    ("name", "order"), [("euler", 1), ("heun", 1.5), ("bdia", 1), ("bdia_damped", 1), ("belm", 1.8)]
)
def test_converges_to_the_solution_of_the_ode(
    solutions: dict[str, Tensor], name: str, order: float, process: str
) -> None:
    steps, method = [16, 32, 64], Reversible(**METHODS[name])
    errors = [
        relative_error(_mixture_sample(process, "ddim", n, method), solutions[process])
        for n in steps
    ]
    assert errors[-1] < 5e-3
    assert convergence_slope(steps, errors) > order


@pytest.mark.parametrize("name", ["heun", "belm"])
def test_nothing_is_stored_between_the_passes(name: str) -> None:
    network = SmallNetwork()
    alive: list[weakref.ref[Tensor]] = []

    def remember(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        alive.extend(weakref.ref(tensor) for tensor in (inputs[0], output))

    network.register_forward_hook(remember)
    method = Reversible(**METHODS[name])
    plan = _plan("vp", steps=20)
    calls = method.reference_plan(plan, PROCESSES["vp"]).num_calls
    gc.disable()
    try:
        sample = Sampler(Denoiser(network, PROCESSES["vp"]), plan, method)(
            some_noise(), emb=some_emb()
        )
        assert len(alive) == 2 * calls
        assert not [reference for reference in alive if reference() is not None]
        alive.clear()
        sample.sum().backward()
        # One further call a stage that is not the last of its step.
        assert len(alive) == 2 * (calls + (37 if name == "heun" else 0))
        assert not [reference for reference in alive if reference() is not None]
    finally:
        gc.enable()


def _held_bytes() -> int:
    tensors = [x for x in gc.get_objects() if type(x) is Tensor and x.layout == torch.strided]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_what_is_held_does_not_grow_with_the_steps() -> None:
    denoiser = Denoiser(lambda x, t: 0.9 * x.tanh(), PROCESSES["vp"])
    noise = torch.randn(4, 4000, requires_grad=True)
    held = []
    for steps in (10, 60):
        sampler = Sampler(denoiser, _plan("vp", steps=steps), Reversible(solver="heun"))
        gc.collect()
        before = _held_bytes()
        sample = sampler(noise)
        held.append(_held_bytes() - before)
        sample.sum().backward()
        del sample
    latent = noise.nbytes
    assert held[1] - held[0] < latent / 4
    assert held[1] < 6 * latent


def test_without_a_graph_the_sample_is_the_same() -> None:
    noise, emb = some_noise(), some_emb()
    sampler = Sampler(Denoiser(SmallNetwork(), PROCESSES["vp"]), _plan("vp"), Reversible())
    with torch.no_grad():
        expected = sampler(noise, emb=emb)
    assert not expected.requires_grad
    assert torch.equal(sampler(noise, emb=emb), expected)


def test_several_uses_before_backward_and_unused_weights() -> None:
    network, emb, method = SmallNetwork(), some_emb(), Reversible()
    denoiser, plan = Denoiser(network, PROCESSES["vp"]), _plan("vp")
    noises = [some_noise().detach(), some_noise().detach()]
    gradients = []
    own = Sampler(denoiser, method.reference_plan(plan, PROCESSES["vp"]), Exact())
    for sampler in (own, Sampler(denoiser, plan, method)):
        network.zero_grad()
        emb.grad = None
        samples = [sampler(noise, emb=emb) for noise in noises]
        total = torch.stack([objective(sample) for sample in samples]).sum()
        total.backward(retain_graph=True)
        total.backward()
        gradients.append([emb.grad, *(p.grad for p in network.used)])
        assert network.unused.weight.grad is None
    for gradient, reference in zip(gradients[1], gradients[0], strict=True):
        assert relative_error(gradient, reference) < 1e-9


def test_a_walk_back_that_is_lost_is_refused() -> None:
    notes, plan = Notes(), _plan("vp", steps=100)
    denoiser = Denoiser(SmallNetwork(), PROCESSES["vp"])
    sampler = Sampler(denoiser, plan, Reversible(coupling=0.5), observer=notes)
    sample = sampler(some_noise(), emb=some_emb())
    with pytest.raises(RuntimeError, match=r"off by .* above the tolerance of 1\.0e-03.*Exact\(\)"):
        sample.sum().backward()
    assert notes.round_trips[0] > 1e-3


def test_a_network_that_answers_differently_is_refused() -> None:
    calls = 0

    def network(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x * (0.5 + 1e-3 * calls)

    sampler = Sampler(Denoiser(network, PROCESSES["vp"]), _plan("vp"), Reversible(family="bdia"))
    with pytest.raises(RuntimeError, match="deterministic"):
        sampler(some_noise()).sum().backward()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "leapfrog"}, "mccallum_foster, bdia, belm"),
        ({"solver": "ab2"}, "euler, heun"),
        ({"family": "bdia", "solver": "heun"}, "method of its own"),
        ({"coupling": 0.0}, "coupling"),
        ({"coupling": 1.1}, "coupling"),
        ({"tolerance": 0.0}, "tolerance"),
    ],
)
def test_settings_that_are_not_understood(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reversible(**settings)


def test_stochastic_plans_are_refused() -> None:
    plan = solvers.build("euler_ancestral", PROCESSES["vp"], STEPS)
    sampler = Sampler(Denoiser(SmallNetwork(), PROCESSES["vp"]), plan, Reversible())
    with pytest.raises(ValueError, match="deterministic"):
        sampler(some_noise(), emb=some_emb())


def test_second_derivatives_are_refused() -> None:
    noise = some_noise()
    sampler = Sampler(Denoiser(SmallNetwork(), PROCESSES["vp"]), _plan("vp"), Reversible())
    sample = sampler(noise, emb=some_emb())
    with pytest.raises(RuntimeError, match="Reversible gives first derivatives only"):
        torch.autograd.grad(sample.sum(), noise, create_graph=True)
