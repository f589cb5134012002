"""Settings of the exact gradient: they move and recompute latents, and change no number."""

from __future__ import annotations

import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import diffusers
import pytest
import torch
from mixtures import PROCESSES
from networks import CountingNetwork, SmallNetwork
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from adjointdpm import (
    Backprop,
    CoarseAdjoint,
    ContinuousAdjoint,
    CounterNoise,
    Denoiser,
    Exact,
    GradientMethod,
    Plan,
    Reversible,
    Sampler,
    Schedule,
    Symplectic,
    Truncated,
    solvers,
)
from adjointdpm.gradients.sweep.checkpoints import repeated_calls, stops
from adjointdpm.memory.keep import on_host
from adjointdpm.memory.measure import peak_bytes
from adjointdpm.recompute import is_looked_into

STEPS = 9


def _scheduler_plan(name: str, **settings: Any) -> tuple[Plan, Schedule]:
    scheduler = getattr(diffusers, name)(**settings)
    return Plan.from_scheduler(scheduler, STEPS), Schedule.from_config(scheduler.config)


def _own_plan(name: str) -> tuple[Plan, Schedule]:
    return solvers.build(name, PROCESSES["vp"], STEPS), PROCESSES["vp"]


PLANS = {
    **{name: lambda name=name: _own_plan(name) for name in ("ddim", "dpmpp_2m", "heun", "ab4")},
    **{name: lambda name=name: _own_plan(name) for name in ("euler_ancestral", "sde_dpmpp_2m")},
    "UniPC": lambda: _scheduler_plan("UniPCMultistepScheduler"),
    "PNDM": lambda: _scheduler_plan("PNDMScheduler", skip_prk_steps=True),
    "DDPM": lambda: _scheduler_plan("DDPMScheduler", clip_sample=False),
}


def _run(
    plan: Plan, schedule: Schedule, method: Any, dropout: float = 0.0, **settings: Any
) -> tuple[list[Tensor], int]:
    """Return the sample and all gradients, and the network calls they took."""
    torch.manual_seed(1)
    network = CountingNetwork(dropout)
    noise = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    emb = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    sampler = Sampler(Denoiser(network, schedule), plan, method)
    sample = sampler(noise, emb=emb, **settings)
    torch.rand(3)  # the random state moves on before the reverse sweep
    gradients = torch.autograd.grad((sample**3).sum(), [noise, emb, *network.used])
    return [sample, *gradients], network.counter.calls


def _same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("max_latents", [1, 2, 4, 5, 40])
@pytest.mark.parametrize("name", PLANS)
def test_recomputed_states_give_the_same_gradient(name: str, max_latents: int) -> None:
    plan, schedule = PLANS[name]()
    expected, _ = _run(plan, schedule, Exact(), generator=CounterNoise(3))
    found, _ = _run(plan, schedule, Exact(max_latents=max_latents), generator=CounterNoise(3))
    assert _same(found, expected)


@pytest.mark.parametrize("source", ["given", "one", "each", "default"])
@pytest.mark.parametrize("name", ["euler_ancestral", "DDPM"])
def test_noise_is_drawn_again_as_it_was(name: str, source: str) -> None:
    plan, schedule = PLANS[name]()
    results = []
    for method in (Exact(), Exact(max_latents=3)):
        settings: dict[str, Any] = {
            "given": {"draws": torch.ones(plan.num_draws, 2, 4).double().cumsum(0)},
            "one": {"generator": torch.Generator().manual_seed(2)},
            "each": {"generator": [torch.Generator().manual_seed(i) for i in (2, 3)]},
            "default": {},
        }[source]
        results.append(_run(plan, schedule, method, **settings)[0])
    assert _same(*results)


@pytest.mark.parametrize("budget", [None, "8KB"])
def test_dropout_is_the_same_when_states_are_recomputed(budget: str | None) -> None:
    plan, schedule = PLANS["dpmpp_2m"]()
    expected, _ = _run(plan, schedule, Backprop(), dropout=0.4)
    found, _ = _run(plan, schedule, Exact(budget, max_latents=3), dropout=0.4)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def _fewest_calls(num_calls: int, slots: int) -> int:
    """Return the least calls of any placement of states, by trying all of them."""

    @cache
    def reversing(length: int, free: int) -> int:
        if length == 1:
            return 0
        if free == 1:
            return length * (length - 1) // 2
        return min(
            stop + reversing(length - stop, free - 1) + reversing(stop, free)
            for stop in range(1, length)
        )

    return reversing(num_calls, slots) - (num_calls - 1)


def test_repeated_calls_are_the_fewest_possible() -> None:
    for num_calls in range(1, 30):
        for slots in range(1, 9):
            assert repeated_calls(num_calls, slots) == _fewest_calls(num_calls, slots)
            assert len(stops(num_calls, slots)) == min(slots, num_calls) - 1


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
@pytest.mark.parametrize("max_latents", [1, 2, 3, 6, 20])
def test_number_of_network_calls(steps: int, max_latents: int) -> None:
    plan = solvers.build("ddim", PROCESSES["vp"], steps)
    assert plan.program.state_size == 1
    _, calls = _run(plan, PROCESSES["vp"], Exact(max_latents=max_latents))
    assert calls == 2 * steps + repeated_calls(steps, max_latents)


def test_graphs_within_the_budget_need_no_states() -> None:
    plan = solvers.build("ddim", PROCESSES["vp"], 20)
    _, plain = _run(plan, PROCESSES["vp"], Exact("4KB"))
    kept = 40 - plain
    assert 0 < kept < 18
    _, calls = _run(plan, PROCESSES["vp"], Exact("4KB", max_latents=3))
    assert calls == plain + repeated_calls(20 - kept, 3)


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "heun"])
def test_no_more_latents_are_stored_than_allowed(name: str) -> None:
    plan, schedule = solvers.build(name, PROCESSES["vp"], 40), PROCESSES["vp"]
    made: list[weakref.ref[Tensor]] = []

    class Watching(SmallNetwork):
        def forward(self, x: Tensor, *args: Any, **cond: Any) -> Tensor:
            output = super().forward(x, *args, **cond)
            made.extend((weakref.ref(x), weakref.ref(output)))
            return output

    sampler = Sampler(Denoiser(Watching(), schedule), plan, Exact(max_latents=7))
    noise = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    sample = sampler(noise, emb=torch.zeros(1, 3, dtype=torch.float64))
    alive = [reference for reference in made if reference() is not None]
    assert 4 <= len(alive) <= 7
    sample.sum().backward()


def test_a_second_backward_starts_from_the_noise_again() -> None:
    plan, schedule = PLANS["dpmpp_2m"]()
    noise = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    sampler = Sampler(Denoiser(SmallNetwork(), schedule), plan, Exact("4KB", max_latents=3))
    sample = sampler(noise, emb=torch.zeros(1, 3, dtype=torch.float64))
    first = torch.autograd.grad(sample.sum(), noise, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(sample.sum(), noise)[0])


@pytest.mark.parametrize("max_latents", [None, 3])
def test_offloading_changes_nothing(max_latents: int | None) -> None:
    plan, schedule = PLANS["heun"]()
    expected, _ = _run(plan, schedule, Exact())
    found, _ = _run(plan, schedule, Exact(offload=True, max_latents=max_latents))
    assert _same(found, expected)


def test_latents_of_a_device_are_kept_on_the_host() -> None:
    """A fake device: what is followed is where tensors are, not what is in them."""
    with FakeTensorMode():
        latent = torch.empty(2, 3, device="cuda:0", dtype=torch.bfloat16)
        kept = on_host(latent)
        where = [cell.cell_contents for cell in kept.__closure__ or ()]
        assert {t.device.type for t in where if isinstance(t, Tensor)} == {"cpu"}
        back = kept()
        assert (back.device, back.dtype, back.shape) == (latent.device, latent.dtype, latent.shape)


def test_a_latent_of_the_host_is_not_copied() -> None:
    latent = torch.randn(2, 3)
    assert on_host(latent)() is latent


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_offloading_on_a_gpu() -> None:
    plan, schedule = PLANS["dpmpp_2m"]()
    network = SmallNetwork().cuda()
    noise = torch.randn(2, 4, dtype=torch.float64, device="cuda", requires_grad=True)
    emb = torch.zeros(1, 3, dtype=torch.float64, device="cuda")
    results = []
    for method in (Exact(), Exact(offload=True), Exact(offload=True, max_latents=3)):
        sample = Sampler(Denoiser(network, schedule), plan, method)(noise, emb=emb)
        results.append(torch.autograd.grad(sample.sum(), [noise, *network.used]))
    assert _same(list(results[0]), list(results[1]))
    assert _same(list(results[0]), list(results[2]))


METHODS = [
    Exact(),
    Exact("1GiB"),
    Truncated(STEPS),
    ContinuousAdjoint(),
    CoarseAdjoint(STEPS),
    Symplectic(),
    Reversible(tolerance=1.0),
]


def _gradients_in_float16(
    network: SmallNetwork, method: GradientMethod, weight: float, **settings: Any
) -> list[Tensor]:
    """Return the gradients of ``weight`` times an objective, divided by the weight."""
    torch.manual_seed(1)
    noise, emb = (torch.randn(2, n, requires_grad=True) for n in (4, 3))
    plan, schedule = PLANS["ddim"]()
    sample = Sampler(Denoiser(network, schedule), plan, method, **settings)(noise, emb=emb)
    gradients = torch.autograd.grad(weight * sample.sum(), [noise, emb, *network.used])
    return [gradient.double() / weight for gradient in gradients]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_small_adjoints_do_not_underflow_in_float16(method: GradientMethod) -> None:
    """The adjoint of a mean over an image is below what float16 can hold."""
    network = SmallNetwork(dtype=torch.float16)
    expected = _gradients_in_float16(network, method, 1.0)
    tiny = 2.0**-40
    found = _gradients_in_float16(network, method, tiny)
    # Latents are float32; what is handed out for float16 weights is float16, and underflows there.
    for gradient, reference in zip(found[:2], expected[:2], strict=True):
        assert torch.equal(gradient, reference)
    (_, without, *_) = _gradients_in_float16(network, method, tiny, adjoint_scale=None)
    assert not without.any()


def test_weight_gradients_of_a_float16_network_are_summed_in_float32() -> None:
    network = SmallNetwork(dtype=torch.float16)
    weight = 2.0**-20
    found = _gradients_in_float16(network, Exact(), weight)
    expected = _gradients_in_float16(network, Exact(), 1.0)
    # The sum is rounded once, to a multiple of 2^-24, and not once a call.
    for gradient, reference in zip(found, expected, strict=True):
        rounding = 2.0**-25 / weight + 2.0**-11 * float(reference.abs().max())
        assert float((gradient - reference).abs().max()) <= rounding


def test_autocast_to_float16_is_scaled_too() -> None:
    network = SmallNetwork(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.float16):
        expected = _gradients_in_float16(network, Exact(), 1.0)
        found = _gradients_in_float16(network, Exact(), 2.0**-40)
        without = _gradients_in_float16(network, Exact(), 2.0**-40, adjoint_scale=None)
    for gradient, reference in zip(found, expected, strict=True):
        assert torch.equal(gradient, reference)
    assert not without[1].any()


@pytest.mark.parametrize("value", [0.0, float("inf")])
def test_scaling_survives_adjoints_without_a_size(value: float) -> None:
    network = SmallNetwork(dtype=torch.float16)
    noise = torch.randn(2, 4, requires_grad=True)
    plan, schedule = PLANS["ddim"]()
    sampler = Sampler(Denoiser(network, schedule), plan, check_finite=False)
    sample = sampler(noise, emb=torch.zeros(1, 3))
    gradient = torch.autograd.grad(sample, noise, torch.full_like(sample, value))[0]
    assert not gradient.any() if value == 0.0 else not gradient.isfinite().all()


def test_an_unknown_scale() -> None:
    plan, schedule = PLANS["ddim"]()
    with pytest.raises(ValueError, match="adjoint_scale must be 'auto' or None"):
        Sampler(Denoiser(SmallNetwork(), schedule), plan, adjoint_scale="twice")  # type: ignore[arg-type]


def test_no_room_for_a_latent() -> None:
    with pytest.raises(ValueError, match="max_latents must be at least 1"):
        Exact(max_latents=0)


class HeavyNetwork(torch.nn.Module):
    """Layers whose weights are larger than what is computed with them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(8))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x


@pytest.mark.parametrize("method", [Exact(), Symplectic(), Reversible(family="belm")], ids=repr)
def test_gradients_of_the_weights_are_never_all_there_beside_their_sums(
    method: GradientMethod,
) -> None:
    network, noise = HeavyNetwork(), torch.randn(4, 64)
    weights = sum(p.nbytes for p in network.parameters())
    sampler = Sampler(Denoiser(network, PROCESSES["vp"]), _own_plan("ddim")[0], method)
    sample = sampler(noise)
    peak = peak_bytes(lambda: torch.autograd.grad(sample.sum(), list(network.parameters())))
    assert weights < peak < 1.5 * weights


def test_other_backward_passes_through_the_same_weights_are_left_alone() -> None:
    """While a reverse sweep sums, another thread (here: the network itself) differentiates too."""
    seen = []

    class Meddling(SmallNetwork):
        def forward(self, x: Tensor, t: Tensor, emb: Tensor) -> Tensor:
            if torch.is_grad_enabled() and not seen:
                seen.append(None)
            elif torch.is_grad_enabled():
                with ThreadPoolExecutor(1) as pool:
                    seen.append(pool.submit(self.differentiate, x.detach(), t, emb).result())
            return super().forward(x, t, emb)

        def differentiate(self, x: Tensor, t: Tensor, emb: Tensor) -> list[Tensor]:
            with torch.enable_grad():
                output = super().forward(x, t, emb.detach())
            return list(torch.autograd.grad(output.sum(), self.used))

    plan, schedule = _own_plan("ddim")
    network, plain = Meddling(), SmallNetwork()
    plain.load_state_dict(network.state_dict())
    noise, emb = torch.randn(2, 4).double(), torch.randn(2, 3).double()
    found, expected = (
        torch.autograd.grad(
            Sampler(Denoiser(each, schedule), plan, method)(noise, emb=emb).sum(), each.used
        )
        for each, method in ((network, Exact()), (plain, Backprop()))
    )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    # Some calls have a graph when they run first, too.
    assert len(seen) == STEPS + sum(is_looked_into(k) for k in range(STEPS))
    for gradients in seen[1:]:
        assert all(gradient.any() for gradient in gradients)
