"""A GPU is never made to wait within a sweep: nothing in it depends on what tensors hold.

The meta device has shapes and no values, so whatever reads a value there raises an error. Tables
and schedules are numbers of the host all along, and are read freely.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from mixtures import PROCESSES
from networks import SmallNetwork
from torch.overrides import TorchFunctionMode

from adjointdpm import (
    Backprop,
    CoarseAdjoint,
    ContinuousAdjoint,
    CounterNoise,
    Denoiser,
    Exact,
    GradientMethod,
    Reversible,
    Sampler,
    Symplectic,
    Truncated,
    solvers,
)

METHODS = [
    Backprop(),
    Exact(),
    Exact("4KB"),
    Exact(max_latents=3),
    ContinuousAdjoint(),
    ContinuousAdjoint(trajectory="resolved"),
    CoarseAdjoint(2),
    Symplectic(),
    Truncated(2),
]


def _run(sampler: Sampler, device: str, **settings: Any) -> None:
    noise = torch.randn(2, 4, device=device, requires_grad=True)
    emb = torch.randn(2, 3, device=device, requires_grad=True)
    negative = torch.randn(1, 3, device=device)
    sample = sampler(noise, emb=emb, negative_emb=negative, **settings)
    torch.autograd.grad(sample.sum(), [noise, emb, *sampler.denoiser.network.used])


def _sampler(method: GradientMethod, steps: int, network: SmallNetwork, **settings: Any) -> Sampler:
    solver = "heun" if isinstance(method, Symplectic) else "dpmpp_2m"
    plan = solvers.build(solver, PROCESSES["scaled_linear"], steps)
    denoiser = Denoiser(
        network,
        PROCESSES["scaled_linear"],
        guidance_scale=2.0,
        guidance_rescale=0.3,
        clip_sample=True,
    )
    return Sampler(denoiser, plan, method, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_no_value_is_read_within_a_sweep(method: GradientMethod, dtype: torch.dtype) -> None:
    network = SmallNetwork(dtype=dtype).to("meta")
    _run(_sampler(method, 5, network, check_finite=False), "meta")


@pytest.mark.parametrize("solver", ["euler_ancestral", "sde_dpmpp_2m"])
@pytest.mark.parametrize("method", [Exact(), Exact(max_latents=3)], ids=repr)
def test_drawing_noise_reads_no_value(method: GradientMethod, solver: str) -> None:
    plan = solvers.build(solver, PROCESSES["vp"], 5)
    denoiser = Denoiser(SmallNetwork(dtype=torch.float32).to("meta"), PROCESSES["vp"])
    sampler = Sampler(denoiser, plan, method, check_finite=False)
    noise = torch.randn(2, 4, device="meta", requires_grad=True)
    sample = sampler(noise, emb=torch.randn(2, 3, device="meta"), generator=CounterNoise(0))
    torch.autograd.grad(sample.sum(), noise)


class _Reads(TorchFunctionMode):
    """Counts what brings values of latents to the host."""

    NAMES = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        # Tables and schedules are computed in float64 on the host, wherever the latents are.
        if getattr(func, "__name__", "") in self.NAMES and args[0].dtype != torch.float64:
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", [*METHODS, Reversible()], ids=repr)
def test_values_are_looked_at_once_a_sweep(method: GradientMethod) -> None:
    counts = []
    for steps in (4, 9):
        sampler = _sampler(method, steps, SmallNetwork(dtype=torch.float32))
        with _Reads() as reads:
            _run(sampler, "cpu")
        counts.append(reads.count)
    assert 1 <= counts[0] == counts[1] <= 3
