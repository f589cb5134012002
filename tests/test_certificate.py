"""The certificate: it passes what is right, and finds out what is wrong."""

from __future__ import annotations

import json

import diffusers
import pytest
import torch
from mixtures import PROCESSES
from networks import SmallNetwork
from torch import nn

from adjointdpm import (
    ContinuousAdjoint,
    Denoiser,
    Exact,
    Plan,
    Sampler,
    Schedule,
    Truncated,
    certify,
    solvers,
)
from adjointdpm.gradients.exact import ExactSweep


class _Cubed(nn.Module):
    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        return (sample**3).sum(1)


def _sampler(method: object, dtype: torch.dtype = torch.float32) -> Sampler:
    plan = solvers.build("dpmpp_2m", PROCESSES["vp"], 8)
    return Sampler(Denoiser(SmallNetwork(dtype=dtype), PROCESSES["vp"]), plan, method)


def test_the_exact_gradient_is_certified_for_every_target() -> None:
    emb = torch.randn(3, 3, requires_grad=True)
    certificate = certify(_sampler(Exact()), torch.randn(3, 4), _Cubed(), emb=emb)
    assert [target.name for target in certificate.targets] == ["noise", "emb", "weights"]
    for target in certificate.targets:
        assert target.relative_error == 0
        assert target.cosine == pytest.approx(1)
        assert target.difference_error < 1e-5
    assert (certificate.forward_calls, certificate.backward_calls) == (8, 8)


def test_approximations_show_their_error() -> None:
    emb = torch.randn(3, 3, requires_grad=True)
    noise = torch.randn(3, 4)
    for method in (ContinuousAdjoint(), Truncated(1)):
        certificate = certify(_sampler(method), noise, _Cubed(), emb=emb)
        assert max(target.relative_error for target in certificate.targets) > 1e-3
        assert max(target.difference_error for target in certificate.targets) > 1e-3


def test_a_wrong_gradient_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Central differences share no derivative with Exact: they see an error in it."""
    pull_back = ExactSweep.pull_back

    def wrong(self: ExactSweep, k: int, adjoint: torch.Tensor, **rest: bool) -> object:
        return pull_back(self, k, adjoint * (1.01 if k == 3 else 1.0), **rest)

    monkeypatch.setattr(ExactSweep, "pull_back", wrong)
    certificate = certify(_sampler(Exact()), torch.randn(3, 4), _Cubed(), emb=torch.randn(3, 3))
    assert certificate.targets[0].difference_error > 1e-4


def test_stochastic_samplers_are_judged_along_one_path() -> None:
    scheduler = diffusers.EulerAncestralDiscreteScheduler()
    denoiser = Denoiser(SmallNetwork(), Schedule.from_config(scheduler.config))
    sampler = Sampler(denoiser, Plan.from_scheduler(scheduler, 6))
    noise = torch.randn(2, 4, dtype=torch.float64)
    certificate = certify(sampler, noise, _Cubed(), emb=torch.randn(2, 3).double())
    assert all(target.difference_error < 1e-5 for target in certificate.targets)


def test_nothing_of_the_sampler_is_changed() -> None:
    sampler = _sampler(Exact())
    weights = {name: p.clone() for name, p in sampler.named_parameters()}
    method = sampler.gradient
    certify(sampler, torch.randn(3, 4), torch.sum, emb=torch.randn(3, 3))
    assert sampler.gradient is method
    for name, parameter in sampler.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, weights[name])
        assert parameter.grad is None


def test_it_can_be_read_by_people_and_programs() -> None:
    certificate = certify(_sampler(Exact()), torch.randn(3, 4), _Cubed(), emb=torch.randn(3, 3))
    table = str(certificate)
    assert "noise" in table
    assert "8 forward, 8 in the reverse sweep" in table
    data = json.loads(certificate.to_json())
    assert data["method"] == "Exact(memory_budget=None)"
    assert data["targets"][0]["cosine"] == certificate.targets[0].cosine
