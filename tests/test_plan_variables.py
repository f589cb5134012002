"""Coefficients and times of a plan as tensors: their gradients against autograd and differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import dense_sample
from networks import SmallNetwork, objective, relative_error, some_emb, some_noise
from torch import Tensor

from adjointdpm import (
    Backprop,
    CoarseAdjoint,
    ContinuousAdjoint,
    Denoiser,
    Exact,
    Plan,
    Reversible,
    Sampler,
    Schedule,
    Symplectic,
    Truncated,
    solvers,
)

SCHEDULE = Schedule.vp_linear()


def _tensors(plan: Plan) -> dict[str, Tensor]:
    return {
        "table": torch.tensor(plan.table, requires_grad=True),
        "timesteps": torch.tensor(plan.timesteps, requires_grad=True),
    }


def _gradients(
    method: Any, network: SmallNetwork, plan: Plan, inputs: list[Tensor], **run: Any
) -> list[Tensor]:
    tensors = _tensors(plan)
    sampler = Sampler(Denoiser(network, SCHEDULE), plan.with_tensors(**tensors), method)
    sample = sampler(inputs[0], emb=inputs[1], **run)
    targets = [*tensors.values(), *inputs, *network.used]
    return list(torch.autograd.grad(objective(sample), targets))


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "heun", "unipc_bh2_3", "sde_dpmpp_2m"])
@pytest.mark.parametrize("method", [Exact(), Exact(memory_budget="1KiB"), Exact(offload=True)])
def test_exact_gives_what_autograd_gives(method: Exact, solver: str) -> None:
    network, inputs = SmallNetwork(), [some_noise(), some_emb()]
    plan = solvers.build(solver, SCHEDULE, 5)
    expected = _gradients(Backprop(), network, plan, inputs, generator=torch.Generator())
    gradients = _gradients(method, network, plan, inputs, generator=torch.Generator())
    for gradient, other in zip(gradients, expected, strict=True):
        assert relative_error(gradient, other) < 1e-10


def test_autograd_is_right_about_the_table() -> None:
    """Central differences of a run straight from the table, entry by entry."""
    network, noise, emb = SmallNetwork(), some_noise(requires_grad=False), some_emb()
    # A prediction that keeps the samples small, so that differences are not lost in rounding.
    plan = solvers.build("dpmpp_2m", SCHEDULE, 3, prediction_type="v_prediction")
    tensors = _tensors(plan)
    denoiser = Denoiser(network, SCHEDULE, "v_prediction")
    sampler = Sampler(denoiser, plan.with_tensors(**tensors))
    found = torch.autograd.grad(objective(sampler(noise, emb=emb)), list(tensors.values()))

    def value(table: np.ndarray, timesteps: np.ndarray) -> float:
        moved = Plan(timesteps, table)
        return float(
            objective(dense_sample(moved, lambda x, t: network(x, t, emb), noise)).detach()
        )

    h = 1e-6
    for k, j in np.argwhere(np.tri(*plan.table.shape, dtype=bool)).tolist():
        bump = np.zeros_like(plan.table)
        bump[k, j] = h
        ends = [value(plan.table + sign * bump, plan.timesteps) for sign in (1, -1)]
        assert found[0][k, j] == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-6)
    for k, bump in enumerate(h * np.eye(3)):
        ends = [value(plan.table, plan.timesteps + sign * bump) for sign in (1, -1)]
        assert found[1][k] == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-6)
    assert not torch.triu(found[0], 1).any()


@settings(deadline=None, max_examples=20)
@given(calls=st.integers(1, 5), draws=st.integers(0, 2), seed=st.integers(0, 99))
def test_any_table(calls: int, draws: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(calls + 1, 1 + calls + draws))
    table[:-1, 1 : 1 + calls] *= np.tri(calls, k=-1)
    plan = Plan(np.linspace(1, 0.1, calls), table, num_draws=draws)
    network, inputs = SmallNetwork(), [some_noise(), some_emb()]
    given_draws = torch.randn(draws, 3, 4, dtype=torch.float64)
    both = [
        _gradients(method, network, plan, inputs, draws=given_draws)
        for method in (Exact(), Backprop())
    ]
    for gradient, expected in zip(*both, strict=True):
        assert relative_error(gradient, expected) < 1e-8


def test_the_sample_is_the_plans_own_and_upstream_tensors_get_their_gradient() -> None:
    network, noise, emb = SmallNetwork(), some_noise(requires_grad=False), some_emb()
    plan = solvers.build("ddim", SCHEDULE, 6)
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    table = torch.tensor(plan.table)
    scaled = plan.with_tensors(table=torch.cat([factor * table[:1], table[1:]]))
    for method in (Exact(), Backprop()):
        sample = Sampler(Denoiser(network, SCHEDULE), scaled, method)(noise, emb=emb)
        expected = Sampler(Denoiser(network, SCHEDULE), plan)(noise, emb=emb)
        torch.testing.assert_close(sample, expected)
        assert torch.autograd.grad(objective(sample), factor, retain_graph=True)[0] != 0


def test_float32_and_only_one_of_them() -> None:
    network = SmallNetwork(dtype=torch.float32)
    noise, emb = some_noise().float().detach(), some_emb().float().detach()
    plan = solvers.build("dpmpp_2m", SCHEDULE, 4)
    for name, tensor in _tensors(plan).items():
        tensor = tensor.detach().float().requires_grad_()
        gradients = []
        for method in (Exact(), Backprop()):
            variable = plan.with_tensors(**{name: tensor})
            sampler = Sampler(Denoiser(network, SCHEDULE), variable, method)
            gradients += torch.autograd.grad(objective(sampler(noise, emb=emb)), tensor)
        assert gradients[0].dtype == torch.float32
        assert relative_error(*gradients) < 1e-4


@pytest.mark.parametrize(
    "method",
    [
        ContinuousAdjoint(),
        CoarseAdjoint(3),
        Symplectic(),
        Reversible(),
        Truncated(2),
        Exact(max_latents=3),
    ],
    ids=lambda method: type(method).__name__,
)
def test_methods_that_have_no_such_gradient_say_so(method: Any) -> None:
    plan = solvers.build("ddim", SCHEDULE, 6)
    sampler = Sampler(
        Denoiser(SmallNetwork(), SCHEDULE), plan.with_tensors(**_tensors(plan)), method
    )
    with pytest.raises(ValueError, match=r"gives them none: use Exact\(\)"):
        sampler(some_noise(), emb=some_emb())
    with torch.no_grad():
        sampler(some_noise(), emb=some_emb())


def test_a_table_changed_in_place_and_a_wrong_shape_are_refused() -> None:
    plan = solvers.build("ddim", SCHEDULE, 6)
    tensors = _tensors(plan)
    sampler = Sampler(Denoiser(SmallNetwork(), SCHEDULE), plan.with_tensors(**tensors))
    with torch.no_grad():
        tensors["table"].mul_(1.1)
    with pytest.raises(RuntimeError, match="changed in place since the plan was made"):
        sampler(some_noise(), emb=some_emb())
    with pytest.raises(ValueError, match=r"has the shape \(7, 7\), not \(2, 7\)"):
        plan.with_tensors(table=tensors["table"][:2])
    with pytest.raises(ValueError, match="not there yet"):
        plan.with_tensors(table=torch.ones(7, 7, requires_grad=True))


def test_the_cost_is_known_too() -> None:
    plan = solvers.build("ddim", SCHEDULE, 6)
    sampler = Sampler(Denoiser(SmallNetwork(), SCHEDULE), plan.with_tensors(**_tensors(plan)))
    assert sampler.cost(some_noise(), emb=some_emb()).products == 6
