"""Exact gradients: equal to full backprop for every plan, prediction type and target."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import diffusers
import pytest
import torch
from mixtures import PROCESSES
from networks import CountingNetwork, SmallNetwork, objective, relative_error, some_emb, some_noise
from torch import Tensor

from adjointdpm import Backprop, Denoiser, Exact, GradientMethod, Plan, Sampler, Schedule, solvers
from adjointdpm.prediction import PREDICTION_TYPES

STEPS = 7


def _own_plan(solver: str, process: str, prediction_type: str) -> Plan:
    return solvers.build(solver, PROCESSES[process], STEPS, prediction_type=prediction_type)


def _gradients(sampler: Sampler, targets: list[Tensor], noise: Tensor, **cond: Any) -> list[Tensor]:
    return list(torch.autograd.grad(objective(sampler(noise, **cond)), targets))


def _assert_exact(
    denoiser: Denoiser, plan: Plan, method: GradientMethod, noise: Tensor, **cond: Any
) -> None:
    tensors = [value for value in cond.values() if isinstance(value, Tensor)]
    targets = [noise, *(t for t in tensors if t.requires_grad), *denoiser.network.used]
    generator = {}
    if plan.num_draws:
        drawn = torch.randn(plan.num_draws, *noise.shape, dtype=noise.dtype, requires_grad=True)
        generator = {"draws": drawn}
        targets.append(drawn)
    expected = _gradients(Sampler(denoiser, plan, Backprop()), targets, noise, **cond, **generator)
    gradients = _gradients(Sampler(denoiser, plan, method), targets, noise, **cond, **generator)
    for gradient, reference in zip(gradients, expected, strict=True):
        assert relative_error(gradient, reference) < 1e-11


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("process", ["vp", "edm", "scaled_linear"])
@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_exact_is_backprop_for_own_solvers(solver: str, process: str, prediction_type: str) -> None:
    schedule = PROCESSES[process]
    denoiser = Denoiser(SmallNetwork(), schedule, prediction_type)
    plan = _own_plan(solver, process, prediction_type)
    _assert_exact(denoiser, plan, Exact(), some_noise(), emb=some_emb())


@pytest.mark.parametrize("solver", ["ddim", "heun", "ab4", "dpmpp_2m"])
@pytest.mark.parametrize("prediction_type", ["v_prediction", "flow_prediction", "sample"])
@pytest.mark.parametrize("process", ["flow", "cosine"])
def test_exact_from_starts_without_data(solver: str, process: str, prediction_type: str) -> None:
    denoiser = Denoiser(SmallNetwork(), PROCESSES[process], prediction_type)
    plan = _own_plan(solver, process, prediction_type)
    _assert_exact(denoiser, plan, Exact(), some_noise(), emb=some_emb())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("DDIMScheduler", {"clip_sample": False}),
        ("DDPMScheduler", {"clip_sample": False}),
        ("DPMSolverMultistepScheduler", {"solver_order": 3}),
        ("EulerAncestralDiscreteScheduler", {}),
        ("EulerDiscreteScheduler", {}),
        ("PNDMScheduler", {"skip_prk_steps": True}),
        ("UniPCMultistepScheduler", {}),
    ],
)
def test_exact_is_backprop_for_schedulers(
    name: str, settings: dict[str, Any], prediction_type: str
) -> None:
    if (name, prediction_type) in [
        ("PNDMScheduler", "sample"),
        ("EulerDiscreteScheduler", "sample"),
        ("EulerAncestralDiscreteScheduler", "sample"),
    ]:
        pytest.skip("diffusers does not offer it")
    scheduler = getattr(diffusers, name)(**settings, prediction_type=prediction_type)
    plan = Plan.from_scheduler(scheduler, STEPS)
    denoiser = Denoiser(SmallNetwork(), Schedule.from_config(scheduler.config), prediction_type)
    _assert_exact(denoiser, plan, Exact(), some_noise(), emb=some_emb())


@pytest.mark.parametrize("passes", ["batched", "sequential"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"guidance_rescale": 0.5}, {"clip_sample": True}, {"thresholding": True}],
    ids=str,
)
def test_exact_through_guidance_and_clipping(settings: dict[str, Any], passes: Any) -> None:
    denoiser = Denoiser(
        SmallNetwork(),
        PROCESSES["vp"],
        "v_prediction",
        guidance_scale=3.0,
        guidance_passes=passes,
        sample_max_value=2.0,
        **settings,
    )
    plan = _own_plan("dpmpp_2m", "vp", "v_prediction")
    _assert_exact(denoiser, plan, Exact(), some_noise(), emb=some_emb(), negative_emb=some_emb(1))


@pytest.mark.parametrize("budget", [0, 3000, "10KB", "1GiB"])
def test_memory_budget_does_not_change_the_gradient(budget: int | str) -> None:
    denoiser = Denoiser(SmallNetwork(), PROCESSES["vp"])
    plan = _own_plan("heun", "vp", "epsilon")
    _assert_exact(denoiser, plan, Exact(memory_budget=budget), some_noise(), emb=some_emb())


@pytest.mark.parametrize(("budget", "calls"), [(None, 2 * STEPS), ("1GiB", STEPS)])
def test_number_of_network_calls(budget: str | None, calls: int) -> None:
    network = CountingNetwork()
    sampler = Sampler(
        Denoiser(network, PROCESSES["vp"]), _own_plan("ddim", "vp", "epsilon"), Exact(budget)
    )
    sampler(some_noise(), emb=some_emb()).sum().backward()
    assert network.counter.calls == calls


def test_a_budget_between_keeps_the_last_graphs() -> None:
    network = CountingNetwork()
    plan = _own_plan("ddim", "vp", "epsilon")
    counts = []
    for budget in range(0, 40_000, 2_000):
        network.counter.calls = 0
        sampler = Sampler(Denoiser(network, PROCESSES["vp"]), plan, Exact(budget))
        sampler(some_noise(), emb=some_emb()).sum().backward()
        counts.append(network.counter.calls)
    assert counts[0] == 2 * STEPS
    assert counts[-1] == STEPS
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 3


def test_gradcheck() -> None:
    network = SmallNetwork()
    sampler = Sampler(
        Denoiser(network, PROCESSES["vp"], "v_prediction"),
        _own_plan("dpmpp_2m", "vp", "v_prediction"),
    )

    def run(noise: Tensor, emb: Tensor, *weights: Tensor) -> Tensor:
        return sampler(noise, emb=emb)

    assert torch.autograd.gradcheck(run, (some_noise(batch=2), some_emb(2), *network.used))


@pytest.mark.parametrize("wanted", ["noise", "emb", "weights"])
def test_only_what_is_needed_is_computed(wanted: str) -> None:
    network = SmallNetwork().requires_grad_(wanted == "weights")
    noise, emb = (
        some_noise(requires_grad=wanted == "noise"),
        some_emb().requires_grad_(wanted == "emb"),
    )
    sampler = Sampler(Denoiser(network, PROCESSES["vp"]), _own_plan("ddim", "vp", "epsilon"))
    products: list[tuple[int, ...]] = []
    handles = [
        tensor.register_hook(lambda gradient: products.append(tuple(gradient.shape)))
        for tensor in network.used
        if tensor.requires_grad
    ]
    sampler(noise, emb=emb).sum().backward()
    assert (noise.grad is not None) == (wanted == "noise")
    assert (emb.grad is not None) == (wanted == "emb")
    assert all((p.grad is not None) == (wanted == "weights") for p in network.used)
    assert bool(products) == (wanted == "weights")
    for handle in handles:
        handle.remove()


def test_unused_parameters_get_no_gradient() -> None:
    network = SmallNetwork()
    sampler = Sampler(Denoiser(network, PROCESSES["vp"]), _own_plan("ddim", "vp", "epsilon"))
    sampler(some_noise(), emb=some_emb()).sum().backward()
    assert network.unused.weight.grad is None
    assert all(p.grad is not None for p in network.used)


def test_nested_conditioning_receives_gradients() -> None:
    gain = torch.rand(3, 16, dtype=torch.float64, requires_grad=True)
    denoiser = Denoiser(SmallNetwork(), PROCESSES["vp"])
    plan = _own_plan("ab3", "vp", "epsilon")
    noise, emb = some_noise(), some_emb()
    cond = {"emb": emb, "extra": {"gain": [gain], "label": "a word"}}
    expected = _gradients(Sampler(denoiser, plan, Backprop()), [gain, emb], noise, **cond)
    gradients = _gradients(Sampler(denoiser, plan, Exact()), [gain, emb], noise, **cond)
    for gradient, reference in zip(gradients, expected, strict=True):
        assert relative_error(gradient, reference) < 1e-11


@pytest.mark.parametrize("budget", [None, "1GiB"])
def test_several_uses_before_backward_and_accumulation(budget: str | None) -> None:
    network, emb = SmallNetwork(), some_emb()
    denoiser = Denoiser(network, PROCESSES["vp"])
    plan = _own_plan("dpmpp_2m", "vp", "epsilon")
    noises = [some_noise(requires_grad=False), some_noise(requires_grad=False)]
    gradients = {}
    for method in (Backprop(), Exact(budget)):
        sampler = Sampler(denoiser, plan, method)
        network.zero_grad()
        emb.grad = None
        total = sum(objective(sampler(noise, emb=emb)) for noise in noises)
        assert isinstance(total, Tensor)
        total.backward()
        objective(sampler(noises[0], emb=emb)).backward()
        gradients[type(method)] = [emb.grad, *(p.grad for p in network.used)]
    for gradient, reference in zip(gradients[Exact], gradients[Backprop], strict=True):
        assert relative_error(gradient, reference) < 1e-11


@pytest.mark.parametrize("budget", [None, "1GiB"])
def test_backward_twice_over_a_retained_graph(budget: str | None) -> None:
    noise = some_noise()
    sampler = Sampler(
        Denoiser(SmallNetwork(), PROCESSES["vp"]), _own_plan("ddim", "vp", "epsilon"), Exact(budget)
    )
    sample = sampler(noise, emb=some_emb())
    first = torch.autograd.grad(sample.sum(), noise, retain_graph=True)[0]
    second = torch.autograd.grad(sample.sum(), noise)[0]
    assert torch.equal(first, second)


@pytest.mark.parametrize("training_ends", [False, True])
@pytest.mark.parametrize("budget", [None, "20KB", "1GiB"])
def test_dropout_is_the_same_when_run_again(budget: str | None, training_ends: bool) -> None:
    network = SmallNetwork(dropout=0.4)
    denoiser = Denoiser(network, PROCESSES["vp"])
    plan = _own_plan("heun", "vp", "epsilon")
    noise, emb = some_noise(), some_emb()
    results = []
    for method in (Backprop(), Exact(budget)):
        torch.manual_seed(5)
        network.train()
        sample = Sampler(denoiser, plan, method)(noise, emb=emb)
        network.train(not training_ends)
        torch.rand(3)  # the random state moves on before the backward pass
        before = torch.get_rng_state()
        results.append(
            (sample, torch.autograd.grad(objective(sample), [noise, emb, *network.used]))
        )
        assert torch.equal(torch.get_rng_state(), before)
        assert network.dropout.training != training_ends
    (sample, gradients), (expected_sample, expected) = results[1], results[0]
    assert torch.equal(sample, expected_sample)
    for gradient, reference in zip(gradients, expected, strict=True):
        assert relative_error(gradient, reference) < 1e-11


def test_what_a_network_keeps_for_itself_is_as_after_sampling() -> None:
    """A counter and a first-time switch are as at each call, and stay where sampling left them."""

    class Counting(SmallNetwork):
        calls, is_new = 0, True

        def forward(self, *args: Any, **cond: Any) -> Tensor:
            self.calls, self.is_new = self.calls + 1, False
            return super().forward(*args, **cond)

    network = Counting()
    network.calls, network.is_new = 0, True  # of the object, where settings are found
    plan = _own_plan("ddim", "vp", "epsilon")
    sample = Sampler(Denoiser(network, PROCESSES["vp"]), plan)(some_noise(), emb=some_emb())
    sample.sum().backward()
    assert network.calls == plan.num_calls
    assert not network.is_new


@pytest.mark.parametrize("backward_inside", [True, False])
@pytest.mark.parametrize("budget", [None, "1GiB"])
def test_autocast_is_the_same_when_run_again(budget: str | None, backward_inside: bool) -> None:
    network = SmallNetwork(dtype=torch.float32)
    denoiser = Denoiser(network, PROCESSES["vp"])
    plan = _own_plan("ddim", "vp", "epsilon")
    noise = torch.randn(3, 4, requires_grad=True)
    emb = torch.randn(3, 3, requires_grad=True)
    results = []
    for method in (Backprop(), Exact(budget)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            sample = Sampler(denoiser, plan, method)(noise, emb=emb)
            assert sample.dtype == torch.float32
            if backward_inside:
                gradients = torch.autograd.grad(sample.sum(), [noise, emb, *network.used])
        if not backward_inside:
            gradients = torch.autograd.grad(sample.sum(), [noise, emb, *network.used])
        results.append((sample, gradients))
    assert torch.equal(results[0][0], results[1][0])
    for gradient, reference in zip(results[1][1], results[0][1], strict=True):
        assert gradient.dtype == torch.float32
        assert relative_error(gradient, reference) < 2e-2  # bfloat16 weight gradients


def test_latents_and_adjoints_are_float32_around_a_bfloat16_network() -> None:
    network = SmallNetwork(dtype=torch.bfloat16)
    sampler = Sampler(Denoiser(network, PROCESSES["vp"]), _own_plan("ddim", "vp", "epsilon"))
    noise = torch.randn(3, 4, dtype=torch.bfloat16, requires_grad=True)
    emb = torch.randn(3, 3, dtype=torch.bfloat16, requires_grad=True)
    sample = sampler(noise, emb=emb)
    assert sample.dtype == torch.float32
    sample.sum().backward()
    assert noise.grad is not None
    assert emb.grad is not None
    assert emb.grad.dtype == torch.bfloat16


def test_second_derivatives_are_refused_with_the_way_to_them() -> None:
    denoiser = Denoiser(SmallNetwork(), PROCESSES["vp"])
    plan = _own_plan("ddim", "vp", "epsilon")
    noise, emb = some_noise(), some_emb()
    sample = Sampler(denoiser, plan)(noise, emb=emb)
    with pytest.raises(RuntimeError, match=r"first derivatives only.*Backprop\(\)"):
        torch.autograd.grad(sample.sum(), noise, create_graph=True)
    sample = Sampler(denoiser, plan, Backprop())(noise, emb=emb)
    gradient = torch.autograd.grad(sample.sum(), noise, create_graph=True)[0]
    assert torch.autograd.grad(gradient.norm(), emb)[0].isfinite().all()


def test_weights_changed_before_backward_are_noticed() -> None:
    network = SmallNetwork()
    sampler = Sampler(Denoiser(network, PROCESSES["vp"]), _own_plan("ddim", "vp", "epsilon"))
    loss = sampler(some_noise(), emb=some_emb()).sum()
    with torch.no_grad():
        network.first.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_nothing_outlives_the_graph() -> None:
    sampler = Sampler(
        Denoiser(SmallNetwork(), PROCESSES["vp"]),
        _own_plan("ddim", "vp", "epsilon"),
        Exact("1GiB"),
    )
    alive: list[weakref.ref[Tensor]] = []

    def remember(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        alive.extend(weakref.ref(tensor) for tensor in (*inputs[:1], output))

    sampler.denoiser.network.register_forward_hook(remember)
    gc.disable()
    try:
        sample = sampler(some_noise(), emb=some_emb())
        del sample
        assert not [reference for reference in alive if reference() is not None]
    finally:
        gc.enable()


@pytest.mark.parametrize("budget", ["lots", "3 apples", "GiB"])
def test_a_budget_that_is_not_understood(budget: str) -> None:
    with pytest.raises(ValueError, match="not understood"):
        Exact(memory_budget=budget)
