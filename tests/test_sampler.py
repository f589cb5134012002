"""The sampler: what it takes, what it refuses, and that it says why."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from mixtures import PROCESSES
from networks import SmallNetwork
from torch import Tensor, nn

from adjointdpm import (
    Backprop,
    CoarseAdjoint,
    ContinuousAdjoint,
    Denoiser,
    Exact,
    Plan,
    Reversible,
    Sampler,
    Symplectic,
    Truncated,
    solvers,
)

VP = PROCESSES["vp"]
PLAN = solvers.build("ddim", VP, 6)


def _emb(requires_grad: bool = False) -> Tensor:
    return torch.randn(2, 3, dtype=torch.float64, requires_grad=requires_grad)


def _noise(requires_grad: bool = False) -> Tensor:
    return torch.randn(2, 4, dtype=torch.float64, requires_grad=requires_grad)


@pytest.mark.parametrize("method", [Backprop(), Exact()])
def test_no_graph_under_no_grad(method: Any) -> None:
    sampler = Sampler(Denoiser(SmallNetwork(), VP), PLAN, method)
    noise, emb = _noise(True), _emb()
    with torch.no_grad():
        sample = sampler(noise, emb=emb)
    assert not sample.requires_grad
    assert torch.equal(sample, sampler(noise, emb=emb).detach())


def test_methods_give_the_same_sample() -> None:
    noise, emb = _noise(True), _emb()
    denoiser = Denoiser(SmallNetwork(), VP)
    samples = [Sampler(denoiser, PLAN, method)(noise, emb=emb) for method in (Backprop(), Exact())]
    assert torch.equal(*samples)


def test_a_plan_for_another_prediction_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"prediction_type='epsilon'.*'sample'"):
        Sampler(Denoiser(SmallNetwork(), VP, "sample"), PLAN)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (torch.zeros(2, 4, dtype=torch.int64), "floating-point"),
        (torch.zeros(4), r"\(batch, ...\)"),
        (torch.zeros(0, 4), "something in it"),
    ],
)
def test_wrong_noise(noise: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampler(Denoiser(SmallNetwork(), VP), PLAN)(noise, emb=_emb())


def test_wrong_draws() -> None:
    scheduler = diffusers.EulerAncestralDiscreteScheduler()
    sampler = Sampler(Denoiser(SmallNetwork(), VP), Plan.from_scheduler(scheduler, 4))
    with pytest.raises(ValueError, match=r"num_draws, \*noise.shape"):
        sampler(_noise(), emb=_emb(), draws=torch.zeros(3, 2, 4))


def test_stochastic_plans_are_reproducible_from_a_generator() -> None:
    plan = Plan.from_scheduler(diffusers.DDPMScheduler(clip_sample=False), 5)
    sampler = Sampler(Denoiser(SmallNetwork(), VP), plan)
    noise, emb = _noise(), _emb()
    samples = [
        sampler(noise, emb=emb, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    ]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])


def test_conditioning_captured_in_a_closure_is_refused() -> None:
    emb = _emb(True)
    network = SmallNetwork().requires_grad_(False)
    sampler = Sampler(Denoiser(lambda x, t: network(x, t, emb), VP), PLAN)
    with pytest.raises(ValueError, match=r"shape \(2, 3\).*Pass it as conditioning"):
        sampler(_noise())


def test_weights_behind_a_plain_function_are_refused() -> None:
    network = SmallNetwork()
    sampler = Sampler(Denoiser(lambda x, t, emb: network(x, t, emb), VP), PLAN)
    with pytest.raises(ValueError, match=r"nn.Module that owns it"):
        sampler(_noise(), emb=_emb())


def test_conditioning_that_the_network_ignores_is_refused() -> None:
    class Ignoring(nn.Module):
        def forward(self, x: Tensor, t: Tensor, emb: Tensor) -> Tensor:
            return x.sin()

    sampler = Sampler(Denoiser(Ignoring(), VP), PLAN)
    with pytest.raises(ValueError, match=r"'emb'.*cannot receive a gradient"):
        sampler(_noise(True), emb=_emb(True))


class _BreaksAt(nn.Module):
    """Not finite at one network call, in the output or only in the gradient."""

    def __init__(self, call: int, in_gradient: bool) -> None:
        super().__init__()
        self.calls, self.call, self.in_gradient = -1, call, in_gradient

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        if self.in_gradient:
            # The derivative of sqrt at 0 is infinite: call 4 is the second in the reverse sweep.
            zero = 0 * x if self.calls % 12 in (self.call, 11 - self.call) else x.abs() + 1
            return torch.where(x > 1e9, x, zero.sqrt() * 0.1 + x.sin())
        return x.sin() / (0.0 if self.calls == self.call else 1.0)


@pytest.mark.parametrize("method", [Backprop(), Exact()])
def test_the_step_of_a_value_that_is_not_finite_is_named(method: Any) -> None:
    sampler = Sampler(Denoiser(_BreaksAt(3, False), VP), PLAN, method)
    time = f"{PLAN.timesteps[3]:g}"
    with pytest.raises(FloatingPointError, match=rf"output of network call 3 \(timestep {time}\)"):
        sampler(_noise(True))


def test_the_step_of_an_adjoint_that_is_not_finite_is_named() -> None:
    sampler = Sampler(Denoiser(_BreaksAt(4, True), VP), PLAN)
    sample = sampler(_noise(True))
    with pytest.raises(FloatingPointError, match="adjoint at the input of network call 4"):
        sample.sum().backward()


@pytest.mark.parametrize(
    "method",
    [Exact(), CoarseAdjoint(2), Truncated(2), ContinuousAdjoint(), Symplectic(), Reversible()],
    ids=repr,
)
def test_a_loss_that_is_not_finite_is_told_from_a_network(method: Any) -> None:
    sample = Sampler(Denoiser(_BreaksAt(99, False), VP), PLAN, method)(_noise(True))
    with pytest.raises(FloatingPointError, match="arrives at the samples is not finite"):
        (sample.sum() * torch.nan).backward()


def test_checks_can_be_turned_off() -> None:
    sampler = Sampler(Denoiser(_BreaksAt(3, False), VP), PLAN, check_finite=False)
    assert not sampler(_noise()).isfinite().all()


def test_it_is_a_module() -> None:
    network = SmallNetwork()
    sampler = Sampler(Denoiser(network, VP), PLAN)
    assert {id(p) for p in sampler.parameters()} == {id(p) for p in network.parameters()}
    assert "ddim" in repr(sampler)
    assert "Exact" in repr(sampler)
