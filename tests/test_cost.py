"""Predicted costs: calls exactly, memory within 15 per cent, and nothing left behind."""

from __future__ import annotations

import json

import pytest
import torch
from mixtures import PROCESSES
from networks import Counter
from observers import Notes
from torch import Tensor, nn

from adjointdpm import (
    Backprop,
    CoarseAdjoint,
    ContinuousAdjoint,
    Denoiser,
    Exact,
    GradientMethod,
    Plan,
    Reversible,
    Sampler,
    Symplectic,
    Truncated,
    solvers,
)
from adjointdpm.gradients.sweep.checkpoints import repeated_calls
from adjointdpm.memory.measure import peak_bytes

STEPS = 8


class ConvolutionalNetwork(nn.Module):
    """Some hundred times the memory of its input, and a few of its weights'."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 24, 3, padding=1, dtype=dtype)
        self.norm = nn.GroupNorm(4, 24, dtype=dtype)
        self.second = nn.Conv2d(24, 24, 3, padding=1, dtype=dtype)
        self.last = nn.Conv2d(24, 2, 3, padding=1, dtype=dtype)
        self.word = nn.Linear(5, 24, dtype=dtype)
        self.counter = Counter()

    def forward(self, x: Tensor, t: Tensor, emb: Tensor) -> Tensor:
        self.counter.calls += 1
        hidden = nn.functional.silu(self.first(x) + self.word(emb)[:, :, None, None])
        hidden = hidden + nn.functional.silu(self.second(self.norm(hidden)))
        output = 0.1 * self.last(hidden * torch.cos(t).to(x.dtype)[:, None, None, None])
        if output.requires_grad:
            output.register_hook(self._count_product)
        return output

    def _count_product(self, adjoint: Tensor) -> None:
        self.counter.products += 1


def _plan(solver: str = "ddim") -> Plan:
    return solvers.build(solver, PROCESSES["vp"], STEPS)


class Case:
    """A sampler, and its arguments with what requires grad."""

    def __init__(
        self, method: GradientMethod, solver: str = "ddim", wanted: str = "noise emb weights"
    ) -> None:
        self.network = ConvolutionalNetwork().requires_grad_("weights" in wanted)
        self.sampler = Sampler(Denoiser(self.network, PROCESSES["vp"]), _plan(solver), method)
        self.noise = torch.randn(2, 2, 16, 16, requires_grad="noise" in wanted)
        self.emb = torch.randn(2, 5, requires_grad="emb" in wanted)

    def gradient(self) -> None:
        sample = self.sampler(self.noise, emb=self.emb)
        self.forward_calls = self.network.counter.calls
        targets = [t for t in (self.noise, self.emb, *self.network.parameters()) if t.requires_grad]
        if targets:
            torch.autograd.grad(sample, targets, torch.ones_like(sample), allow_unused=True)

    def predicted_and_counted(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        cost = self.sampler.cost(self.noise, emb=self.emb)
        self.network.counter = Counter()
        self.gradient()
        predicted = (cost.forward_calls, cost.recomputed_calls, cost.products)
        again = self.network.counter.calls - self.forward_calls
        return predicted, (self.forward_calls, again, self.network.counter.products)


METHODS: list[tuple[GradientMethod, str]] = [
    (Backprop(), "dpmpp_2m"),
    (Exact(), "ddim"),
    (Exact(), "dpmpp_2m"),
    (Exact("2MB"), "ddim"),
    (Exact("1GiB"), "ddim"),
    (Exact(max_latents=3), "ddim"),
    (Exact("2MB", max_latents=5), "dpmpp_2m"),
    (Exact(offload=True), "ddim"),
    (ContinuousAdjoint(), "ddim"),
    (ContinuousAdjoint(num_steps=4), "ddim"),
    (ContinuousAdjoint(trajectory="resolved"), "ddim"),
    (CoarseAdjoint(4), "dpmpp_2m"),
    (CoarseAdjoint(4, solver="ddim"), "ddim"),
    (Truncated(3), "ddim"),
    (Truncated(3, "detach_outputs"), "dpmpp_2m"),
    (Symplectic(), "ddim"),
    (Symplectic(), "heun"),
    (Reversible(), "ddim"),
    (Reversible("bdia"), "ddim"),
]


@pytest.mark.parametrize(("method", "solver"), METHODS, ids=repr)
def test_network_calls(method: GradientMethod, solver: str) -> None:
    predicted, counted = Case(method, solver).predicted_and_counted()
    assert predicted == counted


@pytest.mark.parametrize(
    ("method", "calls"),
    [
        (Backprop(), (STEPS, 0, STEPS)),
        (Exact(), (STEPS, STEPS, STEPS)),
        (Exact("1GiB"), (STEPS, 0, STEPS)),
        (Exact(max_latents=3), (STEPS, STEPS + repeated_calls(STEPS, 3), STEPS)),
        (Truncated(3), (STEPS, 3, 3)),
        (CoarseAdjoint(4), (STEPS, 4, 4)),
        (CoarseAdjoint(4, solver="ddim"), (STEPS, 4, 4)),
        (Symplectic(), (STEPS, STEPS, STEPS)),
    ],
    ids=repr,
)
def test_network_calls_are_those_that_the_documentation_says(
    method: GradientMethod, calls: tuple[int, ...]
) -> None:
    case = Case(method)
    cost = case.sampler.cost(case.noise, emb=case.emb)
    assert (cost.forward_calls, cost.recomputed_calls, cost.products) == calls


@pytest.mark.parametrize("wanted", ["", "noise", "emb", "weights"])
@pytest.mark.parametrize("method", [Backprop(), Exact(), Truncated(3)], ids=repr)
def test_network_calls_by_what_requires_grad(method: GradientMethod, wanted: str) -> None:
    predicted, counted = Case(method, wanted=wanted).predicted_and_counted()
    assert predicted == counted


@pytest.mark.parametrize("wanted", ["noise emb weights", "noise", ""])
@pytest.mark.parametrize(("method", "solver"), METHODS, ids=repr)
def test_peak_memory(method: GradientMethod, solver: str, wanted: str) -> None:
    case = Case(method, solver, wanted)
    predicted = case.sampler.cost(case.noise, emb=case.emb).peak_memory
    assert predicted == pytest.approx(peak_bytes(case.gradient), rel=0.15)


class HeavyNetwork(nn.Module):
    """Weights that take more memory than what is computed with them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("method", [Exact(), Exact("20KB")], ids=repr)
def test_peak_memory_where_weights_are_most_of_it(method: GradientMethod, trained: bool) -> None:
    network = HeavyNetwork().requires_grad_(trained)
    sampler = Sampler(Denoiser(network, PROCESSES["vp"]), _plan(), method)
    noise = torch.randn(4, 64, requires_grad=True)
    predicted = sampler.cost(noise)
    if method == Exact("20KB"):
        # Weights are there anyway, frozen or not, and do not use the budget up.
        assert predicted.recomputed_calls < STEPS

    def gradient() -> None:
        sample = sampler(noise)
        torch.autograd.grad(
            sample, [noise, *network.parameters()] if trained else [noise], torch.ones_like(sample)
        )

    assert predicted.peak_memory == pytest.approx(peak_bytes(gradient), rel=0.15)


def test_stochastic_plans_and_given_draws() -> None:
    plan = _plan("euler_ancestral")
    network = ConvolutionalNetwork()
    draws = torch.randn(plan.num_draws, 2, 2, 16, 16, requires_grad=True)
    noise, emb = torch.randn(2, 2, 16, 16), torch.randn(2, 5)
    sampler = Sampler(Denoiser(network, PROCESSES["vp"]), plan, Exact(max_latents=4))
    for settings in ({}, {"draws": draws}, {"generator": torch.Generator().manual_seed(0)}):
        before = torch.get_rng_state()
        cost = sampler.cost(noise, emb=emb, **settings)
        assert torch.equal(torch.get_rng_state(), before)
        assert cost.products == plan.num_calls


def test_guidance_counts_the_denoiser_once() -> None:
    denoiser = Denoiser(
        ConvolutionalNetwork(), PROCESSES["vp"], guidance_scale=2.0, guidance_passes="sequential"
    )
    noise, emb = torch.randn(2, 2, 16, 16), torch.randn(2, 5)
    cost = Sampler(denoiser, _plan()).cost(noise, emb=emb, negative_emb=-emb)
    assert cost.forward_calls == STEPS


def test_half_precision_networks() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        case = Case(Exact())
        case.network.to(dtype)
        predicted = case.sampler.cost(case.noise, emb=case.emb).peak_memory
        assert predicted == pytest.approx(peak_bytes(case.gradient), rel=0.15)


def test_nothing_is_left_behind() -> None:
    case = Case(Reversible())
    case.sampler.observer = notes = Notes()
    before = torch.get_rng_state()
    case.sampler.cost(case.noise, emb=case.emb)
    assert torch.equal(torch.get_rng_state(), before)
    assert case.noise.grad is None
    assert all(parameter.grad is None for parameter in case.network.parameters())
    assert not notes.round_trips


def test_offloaded_latents_do_not_count_on_a_device() -> None:
    """The meta device stands for one that is not the host."""
    plan = solvers.build("ddim", PROCESSES["vp"], 60)
    network = ConvolutionalNetwork().to("meta")
    noise = torch.empty(2, 2, 16, 16, device="meta", requires_grad=True)
    emb = torch.empty(2, 5, device="meta")
    costs = [
        Sampler(Denoiser(network, PROCESSES["vp"]), plan, method).cost(noise, emb=emb).peak_memory
        for method in (Exact(), Exact(offload=True))
    ]
    assert costs[0] - costs[1] == pytest.approx(60 * noise.nbytes, rel=0.02)


def test_a_reverse_sweep_of_unknown_length_is_refused() -> None:
    case = Case(ContinuousAdjoint(solver="bs3", rtol=1e-3, atol=1e-5))
    with pytest.raises(ValueError, match=r"cannot be told before.*fixed number of steps"):
        case.sampler.cost(case.noise, emb=case.emb)


def test_it_is_written_as_json_and_as_a_table() -> None:
    case = Case(Exact())
    cost = case.sampler.cost(case.noise, emb=case.emb)
    assert json.loads(cost.to_json())["forward_calls"] == STEPS
    assert json.loads(cost.to_json())["call"]["graph_bytes"] == cost.call.graph_bytes > 0
    lines = str(cost).splitlines()
    assert "Exact" in lines[0]
    assert len({len(line) for line in lines[1:]}) == 1
    assert cost.seconds > 0
