"""Truncated gradients: they are what detaching by hand gives, in both senses of the word."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mixtures import PROCESSES
from networks import SmallNetwork, relative_error
from torch import Tensor

from adjointdpm import Denoiser, Exact, Plan, Sampler, Truncated, solvers

STEPS = 9


def _by_hand(
    denoiser: Denoiser, plan: Plan, noise: Tensor, emb: Tensor, last: int, mode: str
) -> Tensor:
    """Run DDIM's recurrence, detaching what the mode says."""
    first = plan.num_calls - last
    x = noise * plan.table[0, 0]
    for k, t in enumerate(plan.timesteps.tolist()):
        if k == first > 0 and mode == "detach_steps":
            x = x.detach()
        output = denoiser(x, t, emb=emb)
        if k < first:
            output = output.detach()
        weights = {term.value.kind: term.weight for term in plan.program.rows[k + 1]}
        x = weights["input"] * x + weights["output"] * output
    return x


@pytest.mark.parametrize("mode", ["detach_steps", "detach_outputs"])
@pytest.mark.parametrize("last", [1, 4, STEPS])
def test_it_is_detaching_by_hand(mode: Any, last: int) -> None:
    network = SmallNetwork()
    denoiser = Denoiser(network, PROCESSES["vp"])
    plan = solvers.build("ddim", PROCESSES["vp"], STEPS)
    noise = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    emb = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    targets = [noise, emb, *network.used]
    expected = torch.autograd.grad(
        (_by_hand(denoiser, plan, noise, emb, last, mode) ** 3).sum(), targets, allow_unused=True
    )
    sample = Sampler(denoiser, plan, Truncated(last, mode))(noise, emb=emb)
    gradients = torch.autograd.grad((sample**3).sum(), targets)
    for gradient, reference in zip(gradients, expected, strict=True):
        if reference is None:
            assert not gradient.any()
        else:
            assert relative_error(gradient, reference) < 1e-11


@pytest.mark.parametrize("solver", ["dpmpp_2m", "ab3", "heun"])
@pytest.mark.parametrize("mode", ["detach_steps", "detach_outputs"])
def test_all_calls_are_the_exact_gradient(solver: str, mode: Any) -> None:
    network = SmallNetwork()
    denoiser = Denoiser(network, PROCESSES["vp"])
    plan = solvers.build(solver, PROCESSES["vp"], STEPS)
    noise = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    emb = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    gradients = [
        torch.autograd.grad(
            Sampler(denoiser, plan, method)(noise, emb=emb).sum(), [noise, emb, *network.used]
        )
        for method in (Truncated(plan.num_calls, mode), Exact())
    ]
    for gradient, reference in zip(*gradients, strict=True):
        assert relative_error(gradient, reference) < 1e-12


def test_only_the_last_inputs_are_stored_and_run_again() -> None:
    calls = 0

    class Counting(SmallNetwork):
        def forward(self, *args: Any, **cond: Any) -> Tensor:
            nonlocal calls
            calls += 1
            return super().forward(*args, **cond)

    plan = solvers.build("ddim", PROCESSES["vp"], STEPS)
    sampler = Sampler(Denoiser(Counting(), PROCESSES["vp"]), plan, Truncated(2))
    emb = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    sample = sampler(torch.randn(3, 4, dtype=torch.float64), emb=emb)
    assert sorted(sample.grad_fn.sweep._inputs) == [STEPS - 2, STEPS - 1]  # type: ignore[union-attr]
    sample.sum().backward()
    assert calls == STEPS + 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"last": 0}, "at least 1"), ({"last": 1, "mode": "nothing"}, "detach_steps or")],
)
def test_wrong_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Truncated(**arguments)
