"""What holds for every gradient method."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from mixtures import PROCESSES
from networks import SmallNetwork, objective, relative_error, some_emb, some_noise
from observers import Notes
from torch import Tensor

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

METHODS: list[GradientMethod] = [
    Backprop(),
    Backprop(checkpoint=True),
    Exact(),
    Exact("1GiB"),
    Exact(max_latents=3),
    ContinuousAdjoint(),
    ContinuousAdjoint(trajectory="resolved"),
    ContinuousAdjoint("bs3", rtol=1e-2),
    CoarseAdjoint(4),
    CoarseAdjoint(4, solver="ddim"),
    Symplectic(),
    Reversible(),
    Reversible("belm"),
    Truncated(3),
    Truncated(3, "detach_outputs"),
]


def _plan(end: str = "zero") -> Plan:
    return solvers.build("ddim", PROCESSES["vp"], 8, final_sigmas_type=end)


@pytest.mark.parametrize("end", ["zero", "sigma_min"])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_sample_that_is_changed_in_place_changes_no_gradient(
    method: GradientMethod, end: str
) -> None:
    sampler = Sampler(Denoiser(SmallNetwork(), PROCESSES["vp"]), _plan(end), method)
    noise, emb = some_noise(), some_emb()
    found = []
    for change in (False, True):
        sample = sampler(noise, emb=emb)
        adjoint = torch.ones_like(sample)
        if change:
            sample.detach().mul_(-3)
        found.append(torch.autograd.grad(sample, [noise, emb], adjoint, allow_unused=True))
    for kept, changed in zip(*found, strict=True):
        assert kept is changed is None or torch.equal(kept, changed)


@pytest.mark.parametrize("end", ["zero", "sigma_min"])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_sample_is_gone_with_its_last_name(method: GradientMethod, end: str) -> None:
    """No method holds its own output, which holds the method's sweep."""
    sampler = Sampler(Denoiser(SmallNetwork(), PROCESSES["vp"]), _plan(end), method)
    gc.disable()
    try:
        for backward in (False, True):
            sample = sampler(some_noise(), emb=some_emb())
            node = sample.grad_fn
            alive: list[weakref.ref[object]] = [weakref.ref(sample)]
            if hasattr(node, "sweep"):
                alive.append(weakref.ref(node.sweep))
            if backward:
                objective(sample).backward()
            del sample, node
            assert [thing() for thing in alive] == [None] * len(alive)
    finally:
        gc.enable()


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_an_observer_changes_nothing_and_hears_something(method: GradientMethod) -> None:
    denoiser, notes = Denoiser(SmallNetwork(), PROCESSES["vp"]), Notes()
    noise, emb = some_noise(), some_emb()

    def gradients(observer: Notes | None) -> tuple[Tensor | None, ...]:
        sample = Sampler(denoiser, _plan(), method, observer=observer)(noise, emb=emb)
        return torch.autograd.grad(objective(sample), [noise, emb], allow_unused=True)

    for alone, observed in zip(gradients(None), gradients(notes), strict=True):
        assert alone is observed is None or torch.equal(alone, observed)
    assert notes.products or notes.steps


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_what_a_method_says_of_its_table_is_what_runs(method: GradientMethod) -> None:
    """The exact gradient on `reference_plan` has the sample of the method."""
    denoiser, plan = Denoiser(SmallNetwork(), PROCESSES["vp"]), _plan()
    reference = method.reference_plan(plan, denoiser.schedule)
    noise, emb = some_noise(), some_emb()
    expected = Sampler(denoiser, reference, Exact())(noise, emb=emb)
    found = Sampler(denoiser, plan, method)(noise, emb=emb)
    assert relative_error(found.detach(), expected.detach()) < 1e-9
