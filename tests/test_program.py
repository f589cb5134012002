"""Programs: what is compressed expands to the same table, and holds few latents."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import PROCESSES

from adjointdpm import Plan, Schedule, solvers
from adjointdpm.plan.draws import Draws
from adjointdpm.plan.execution import execute, transpose
from adjointdpm.plan.recurrence import compress


def _random_plan(calls: int, draws: int, seed: int) -> Plan:
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(calls + 1, 1 + calls + draws))
    table[:-1, 1 : 1 + calls] *= np.tri(calls, k=-1)
    return Plan(np.arange(calls, 0, -1.0), table, num_draws=draws)


@settings(deadline=None, max_examples=30)
@given(calls=st.integers(1, 7), draws=st.integers(0, 3), seed=st.integers(0, 99))
def test_any_table_survives_compression(calls: int, draws: int, seed: int) -> None:
    plan = _random_plan(calls, draws, seed)
    np.testing.assert_allclose(plan.program.expand(), plan.table, atol=1e-8)


@settings(deadline=None, max_examples=30)
@given(calls=st.integers(1, 6), draws=st.integers(0, 3), seed=st.integers(0, 99))
def test_execution_is_the_table_and_transpose_its_transpose(
    calls: int, draws: int, seed: int
) -> None:
    plan = _random_plan(calls, draws, seed)
    noise, outputs, drawn = (
        torch.randn(n, 2, 3, dtype=torch.float64) for n in (1, calls, max(draws, 1))
    )
    values = torch.cat([noise, outputs, drawn[:draws]])
    expected = torch.einsum("kj,jab->kab", torch.from_numpy(plan.table.copy()), values)
    inputs: list[torch.Tensor] = []

    def call(k: int, x: torch.Tensor) -> torch.Tensor:
        inputs.append(x)
        return outputs[k]

    sample = execute(plan.program, call, noise[0], Draws(noise[0], given=drawn))
    torch.testing.assert_close(torch.stack([*inputs, sample]), expected)

    adjoint = torch.randn(2, 3, dtype=torch.float64)
    pulled: dict[int, torch.Tensor] = {}

    def pull_back(k: int, a: torch.Tensor) -> torch.Tensor:
        pulled[k] = a
        return torch.zeros_like(a)  # a network that ignores its input

    to_noise, to_draws = transpose(plan.program, adjoint, pull_back)
    row = torch.from_numpy(plan.sample.copy())
    torch.testing.assert_close(to_noise, row[0] * adjoint)
    for k, a in pulled.items():
        torch.testing.assert_close(a, row[1 + k] * adjoint)
    for j, a in enumerate(to_draws):
        torch.testing.assert_close(a, row[1 + calls + j] * adjoint)


@pytest.mark.parametrize(
    ("solver", "latents"),
    [("ddim", 3), ("euler", 3), ("heun", 4), ("midpoint", 4), ("dpmpp_2m", 5), ("ab2", 5)],
)
@pytest.mark.parametrize("process", ["vp", "flow", "scaled_linear"])
def test_latents_held_do_not_grow_with_the_steps(solver: str, latents: int, process: str) -> None:
    for steps in (10, 80):
        plan = solvers.build(solver, PROCESSES[process], steps, prediction_type="v_prediction")
        assert plan.program.num_live <= latents


def test_what_no_later_row_reads_is_let_go() -> None:
    """The executor itself holds no more than the program says."""
    import weakref

    plan = solvers.build("dpmpp_2m", Schedule.vp_linear(), 30)
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0

    def call(k: int, x: torch.Tensor) -> torch.Tensor:
        nonlocal most
        output = torch.zeros_like(x)
        alive.add(x)
        alive.add(output)
        most = max(most, len(alive))
        return output

    noise = torch.zeros(1, 1)
    execute(plan.program, call, noise, Draws(noise))
    assert most <= plan.program.num_live + 1


def test_dense_table_without_recurrence_is_kept_whole() -> None:
    plan = _random_plan(30, 0, 0)
    assert np.abs(compress(plan.table, 30).expand() - plan.table).max() < 1e-8
