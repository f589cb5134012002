"""Compiled networks: the same gradients, and nothing compiled again for a step."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from mixtures import PROCESSES
from networks import SmallNetwork, relative_error
from torch import Tensor, nn
from torch._dynamo.backends.registry import lookup_backend

from adjointdpm import (
    Backprop,
    CoarseAdjoint,
    ContinuousAdjoint,
    Denoiser,
    Exact,
    GradientMethod,
    Reversible,
    Sampler,
    Symplectic,
    Truncated,
    solvers,
)

STEPS = 9
METHODS = [
    Backprop(),
    Exact(),
    Exact("4KB"),
    Exact(max_latents=2),
    ContinuousAdjoint(),
    ContinuousAdjoint(trajectory="resolved"),
    CoarseAdjoint(2),
    Symplectic(),
    Reversible(),
    Truncated(2),
]


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class CountingBackend:
    """A backend of torch.compile that counts the graphs that it is given."""

    def __init__(self, name: str = "aot_eager") -> None:
        self.graphs = 0
        self._compile = lookup_backend(name)

    def __call__(self, graph: Any, inputs: Any, **options: Any) -> Any:
        self.graphs += 1
        return self._compile(graph, inputs, **options)


def _gradients(
    denoiser: nn.Module, network: SmallNetwork, method: GradientMethod, steps: int = STEPS
) -> list[Tensor]:
    torch.manual_seed(1)
    plan = solvers.build("ddim", PROCESSES["vp"], steps)
    sampler = Sampler(denoiser, plan, method)  # type: ignore[arg-type]
    noise = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    emb = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    sample = sampler(noise, emb=emb)
    gradients = torch.autograd.grad((sample**3).sum(), [noise, emb, *network.used])
    return [sample, *gradients]


def _compiled(how: str, network: SmallNetwork, backend: Any, **settings: Any) -> nn.Module:
    """Return a denoiser of which a part, or all, is compiled."""
    if how == "returned":
        return Denoiser(torch.compile(network, backend=backend), PROCESSES["vp"], **settings)
    denoiser = Denoiser(network, PROCESSES["vp"], **settings)
    if how == "in place":
        network.compile(backend=backend)
    elif how == "denoiser":
        return torch.compile(denoiser, backend=backend)
    elif how == "denoiser in place":
        denoiser.compile(backend=backend)
    return denoiser


@pytest.mark.parametrize(
    ("method", "how"),
    [
        *((method, how) for method in METHODS for how in ("returned", "denoiser")),
        *((Exact(), how) for how in ("in place", "denoiser in place")),
    ],
    ids=repr,
)
def test_gradients_are_those_of_the_eager_network_and_steps_are_not_compiled_one_by_one(
    method: GradientMethod, how: str
) -> None:
    network = SmallNetwork()
    expected = _gradients(Denoiser(network, PROCESSES["vp"]), network, method)
    backend = CountingBackend()
    found = _gradients(_compiled(how, network, backend), network, method)
    # With a graph, without one, and with one to check but not to differentiate.
    assert 1 <= backend.graphs <= 3
    for gradient, reference in zip(found, expected, strict=True):
        assert relative_error(gradient, reference) < 1e-11


@pytest.mark.parametrize("how", ["returned", "denoiser"])
@pytest.mark.parametrize("settings", [{"clip_sample": True}, {"guidance_rescale": 0.5}], ids=str)
def test_guidance_and_clipping_compile(how: str, settings: dict[str, Any]) -> None:
    network, plan = SmallNetwork(), solvers.build("dpmpp_2m", PROCESSES["vp"], STEPS)
    settings = {"guidance_scale": 2.0, "sample_max_value": 2.0, **settings}
    emb = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    noise, negative = torch.randn(3, 4, dtype=torch.float64), torch.randn(1, 3).double()
    backend = CountingBackend()
    results = []
    for denoiser in (
        Denoiser(network, PROCESSES["vp"], **settings),
        _compiled(how, network, backend, **settings),
    ):
        sample = Sampler(denoiser, plan)(noise, emb=emb, negative_emb=negative)  # type: ignore[arg-type]
        results.append(torch.autograd.grad((sample**3).sum(), [emb, *network.used]))
    assert backend.graphs > 0
    for gradient, reference in zip(*results, strict=True):
        assert relative_error(gradient, reference) < 1e-11


@pytest.mark.parametrize("how", ["returned", "denoiser"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_tensors_that_can_get_no_gradient_are_named(how: str, backend: str) -> None:
    plan = solvers.build("ddim", PROCESSES["vp"], 2)
    hidden = torch.randn(4, dtype=torch.float64, requires_grad=True)

    class Hiding(SmallNetwork):
        def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
            return super().forward(x, t, emb) + hidden

    class Ignoring(SmallNetwork):
        def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
            return super().forward(x, t, torch.zeros(1, 3, dtype=x.dtype))

    noise = torch.randn(2, 4, dtype=torch.float64)
    emb = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    for network, message in ((Hiding(), "neither a weight"), (Ignoring(), "does not depend on it")):
        denoiser = _compiled(how, network, backend)
        with pytest.raises(ValueError, match=message):
            Sampler(denoiser, plan)(noise, emb=emb).sum().backward()  # type: ignore[arg-type]


def test_autocast_and_no_grad_around_a_compiled_network() -> None:
    network, backend = SmallNetwork(dtype=torch.float32), CountingBackend()
    plan = solvers.build("ddim", PROCESSES["vp"], 9)
    results = []
    for denoiser in (
        Denoiser(network, PROCESSES["vp"]),
        _compiled("returned", network, backend),
    ):
        torch.manual_seed(2)
        noise, emb = torch.randn(2, 4), torch.randn(2, 3, requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            sample = Sampler(denoiser, plan)(noise, emb=emb)  # type: ignore[arg-type]
        results.append(torch.autograd.grad(sample.sum(), [emb, *network.used]))
    assert backend.graphs <= 3
    for gradient, reference in zip(*results, strict=True):
        assert relative_error(gradient, reference) < 2e-2


@pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "clang++")), reason="needs a C++ compiler"
)
def test_inductor_with_dropout() -> None:
    """The mask is inductor's own, so the reference is backprop through the compiled network."""
    network = SmallNetwork(dropout=0.4)
    denoiser = _compiled("returned", network, "inductor")
    expected = _gradients(denoiser, network, Backprop())
    found = _gradients(denoiser, network, Exact(max_latents=2))
    for gradient, reference in zip(found, expected, strict=True):
        assert relative_error(gradient, reference) < 1e-11


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_cuda_graphs(method: GradientMethod) -> None:
    network = SmallNetwork(dtype=torch.float32).cuda()
    plan = solvers.build("dpmpp_2m" if isinstance(method, Exact) else "ddim", PROCESSES["vp"], 8)
    noise = torch.randn(3, 4, device="cuda", requires_grad=True)
    emb = torch.randn(3, 3, device="cuda", requires_grad=True)
    results = []
    for net in (network, torch.compile(network, mode="reduce-overhead")):
        sampler = Sampler(Denoiser(net, PROCESSES["vp"]), plan, method)
        for _ in range(3):  # graphs are recorded in the second use
            sample = sampler(noise, emb=emb)
            gradients = torch.autograd.grad((sample**3).sum(), [noise, emb, *network.used])
        results.append([sample, *gradients])
    for gradient, reference in zip(*results, strict=True):
        assert relative_error(gradient, reference) < 1e-4
