"""A gradient is right, or it raises: whatever the network does, and whatever happens meanwhile."""

from __future__ import annotations

import copy
import gc
import os
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from mixtures import PROCESSES
from networks import SmallNetwork, objective, relative_error, some_emb, some_noise
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

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
from adjointdpm.recompute import Recompute, RerunError
from adjointdpm.recompute.fingerprint import TOLERANCES

pytestmark = pytest.mark.filterwarnings("ignore:CoarseAdjoint took:UserWarning")

STEPS = 6
GRADIENTS = int(os.environ.get("ADJOINTDPM_GRADIENTS", "30"))
"""How many are taken in a row with each method to see that nothing grows."""
EXACT = [Exact(), Exact("1GiB"), Exact(max_latents=2), Truncated(STEPS), Symplectic()]
METHODS = [*EXACT, CoarseAdjoint(3), ContinuousAdjoint(), Reversible()]


def _sampler(network: Any, method: GradientMethod | None = None, **settings: Any) -> Sampler:
    plan = solvers.build("ddim", PROCESSES["vp"], STEPS)
    return Sampler(Denoiser(network, PROCESSES["vp"], **settings), plan, method)


class Network(SmallNetwork):
    """With gradients of everything, found in the same order whatever it wraps."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(0)
        super().__init__(dtype=dtype)


def _inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return some_noise(), some_emb()


def _gradients(
    network: nn.Module, method: GradientMethod, between: Callable[[], Any] = lambda: None
) -> list[Tensor]:
    """Return the sample and the gradients of noise, conditioning and weights."""
    noise, emb = _inputs()
    sample = _sampler(network, method)(noise, emb=emb)
    between()
    for weight in network.parameters():
        weight.grad = None
    objective(sample).backward()
    weights = [p.grad for p in network.parameters() if p.grad is not None]
    return [sample.detach(), noise.grad, emb.grad, *weights]  # type: ignore[list-item]


def _assert_like_backprop(
    make: Callable[[], nn.Module],
    method: GradientMethod,
    change: Callable[[nn.Module], Any] = lambda network: None,
) -> nn.Module:
    reference = make()
    expected = _gradients(reference, Backprop())
    network = make()
    found = _gradients(network, method, lambda: change(network))
    assert len(found) == len(expected)
    for gradient, other in zip(found, expected, strict=True):
        assert relative_error(gradient, other) < 1e-10
    return network


# What is right


@pytest.mark.parametrize("method", EXACT, ids=repr)
@pytest.mark.parametrize("hook", [lambda g: 0.1 * g, torch.sign, lambda g: g / g.norm()])
def test_hooks_on_weights_run_once_on_the_total(method: GradientMethod, hook: Any) -> None:
    runs: list[Tensor] = []

    def make() -> nn.Module:
        network = Network()
        runs.clear()
        network.first.weight.register_hook(lambda g: (runs.append(g), hook(g))[1])
        return network

    _assert_like_backprop(make, method)
    assert len(runs) == 1


@pytest.mark.parametrize("method", EXACT, ids=repr)
@pytest.mark.parametrize("computed", [False, True])
def test_weights_from_elsewhere(method: GradientMethod, computed: bool) -> None:
    network = Network()
    results = []
    for each in (method, Backprop()):
        sampler = _sampler(network, each)
        given = {k: v.detach().clone().requires_grad_() for k, v in sampler.named_parameters()}
        weights = {k: 1.1 * v for k, v in given.items()} if computed else given
        noise, emb = _inputs()
        sample = torch.func.functional_call(sampler, weights, (noise,), {"emb": emb})
        objective(sample).backward()
        used = [v.grad for v in given.values() if v.grad is not None]
        results.append([sample, noise.grad, emb.grad, *used])
    assert len(results[0]) == len(results[1]) == 7
    for gradient, reference in zip(*results, strict=True):
        assert relative_error(gradient, reference) < 1e-11
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("method", EXACT, ids=repr)
@pytest.mark.parametrize("reentrant", [True, False])
def test_networks_with_checkpoints_of_their_own(method: GradientMethod, reentrant: bool) -> None:
    class Checkpointed(Network):
        def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
            return checkpoint(super().forward, x, t, emb, use_reentrant=reentrant)

    _assert_like_backprop(Checkpointed, method)


class OwnCheckpoint(torch.autograd.Function):
    """As in guided-diffusion: the function is run again, and differentiated, in ``backward``."""

    @staticmethod
    def forward(ctx: Any, run: Any, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.run, ctx.x, ctx.weights = run, x, weights
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx: Any, adjoint: Tensor) -> tuple[Tensor | None, ...]:
        x = ctx.x.detach().requires_grad_()
        with torch.enable_grad():
            output = ctx.run(x.view_as(x))
        gradients = torch.autograd.grad(output, [x, *ctx.weights], adjoint, allow_unused=True)
        return None, *gradients


@pytest.mark.parametrize("method", EXACT, ids=repr)
@pytest.mark.parametrize("kind", ["own", "reentrant", "not reentrant"])
def test_checkpoints_run_again_on_the_same_stand_ins(method: GradientMethod, kind: str) -> None:
    """A hook tells where gradients came to the weights past their stand-ins."""

    class Checkpointed(Network):
        def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
            def run(x: Tensor) -> Tensor:
                return Network.forward(self, x, t, emb)

            if kind == "own":
                return OwnCheckpoint.apply(run, x, *self.used)
            return checkpoint(run, x, use_reentrant=kind == "reentrant")

    results = []
    for network, each in ((Checkpointed(), method), (Network(), Backprop())):
        noise, emb = _inputs()
        loss = objective(_sampler(network, each)(noise, emb=emb.detach()))
        arrived: list[Tensor] = []
        network.first.weight.register_hook(arrived.append)
        loss.backward()
        assert len(arrived) == 1
        results.append([noise.grad, *(weight.grad for weight in network.used)])
    for gradient, reference in zip(*results, strict=True):
        assert gradient is not None
        assert reference is not None
        assert relative_error(gradient, reference) < 1e-11


@pytest.mark.parametrize("method", EXACT, ids=repr)
@pytest.mark.parametrize("wrap", [parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_spectral_norm_that_moves_with_each_call(method: GradientMethod, wrap: Any) -> None:
    def make() -> nn.Module:
        network = Network()
        torch.manual_seed(2)
        wrap(network.first)
        wrap(network.second)
        return network.train()

    network = _assert_like_backprop(make, method)
    reference = make()
    _gradients(reference, Backprop())
    for (name, found), expected in zip(network.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(found, expected, msg=name)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_statistics_move_once_a_call(method: GradientMethod) -> None:
    class Normalized(Network):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4, dtype=torch.float64)

        def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
            return super().forward(self.norm(x), t, emb)

    network, plain = Normalized(), Normalized()
    noise, emb = _inputs()
    with torch.no_grad():
        _sampler(plain, method)(noise, emb=emb)
    objective(_sampler(network, method)(noise, emb=emb)).backward()
    for found, expected in zip(network.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(found, expected)


class Remembering(Network):
    """With settings that are numbers, in an attribute and in a dict as adapters have them."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = 0.7
        self._scaling = {"one": 0.5}
        self._active = ["one"]
        self._calls = 0

    def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
        self._calls += 1
        scale = self.strength * sum(self._scaling[name] for name in self._active)
        return super().forward(x, t, emb) * scale * (1 if self._calls < 4 else 0.2)


@pytest.mark.parametrize("method", EXACT, ids=repr)
@pytest.mark.parametrize(
    "change",
    [
        lambda n: setattr(n, "strength", 0.1),
        lambda n: n._scaling.update(one=2.0),
        lambda n: n._active.clear(),
        lambda n: setattr(n, "_calls", 0),
        lambda n: n._scaling.update(two=1.0) or n._active.append("two"),
        lambda n: n.requires_grad_(False).requires_grad_(True),
        lambda n: None,
    ],
)
def test_numbers_are_as_at_each_call(method: GradientMethod, change: Any) -> None:
    network = _assert_like_backprop(Remembering, method, change)
    assert network._calls in (STEPS, 0)


@pytest.mark.parametrize("method", EXACT, ids=repr)
def test_weights_frozen_before_backward(method: GradientMethod) -> None:
    results = []
    for each in (method, Backprop()):
        network = Network()
        noise, emb = _inputs()
        sample = _sampler(network, each)(noise, emb=emb)
        network.requires_grad_(False)
        objective(sample).backward()
        results.append((noise.grad, emb.grad))
    for gradient, reference in zip(*results, strict=True):
        assert gradient is not None
        assert reference is not None
        assert relative_error(gradient, reference) < 1e-11


@pytest.mark.parametrize("method", EXACT, ids=repr)
def test_frozen_weights_that_are_trained_afterwards(method: GradientMethod) -> None:
    def frozen() -> nn.Module:
        return Network().requires_grad_(False)

    _assert_like_backprop(frozen, method, lambda network: network.requires_grad_(True))


HOOKS = {
    "forward": lambda part: part.register_forward_hook(lambda p, args, y: 1.3 * y),
    "forward pre": lambda part: part.register_forward_pre_hook(
        lambda p, args, kwargs: ((1.1 * args[0],), kwargs), with_kwargs=True
    ),
    "backward": lambda part: part.register_full_backward_hook(lambda p, gx, gy: (2 * gx[0],)),
    "backward pre": lambda part: part.register_full_backward_pre_hook(lambda p, gy: (2 * gy[0],)),
}


@pytest.mark.parametrize("method", EXACT, ids=repr)
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("when", ["removed", "registered"])
def test_hooks_on_modules_are_as_at_each_call(method: GradientMethod, hook: str, when: str) -> None:
    """One of the backward pass has no part in the answer, and would change the gradient unseen."""

    def gradients(chosen: GradientMethod) -> list[Tensor]:
        network = Network()
        if when == "registered":
            return _gradients(network, chosen, lambda: HOOKS[hook](network.second))
        handle = HOOKS[hook](network.second)
        return _gradients(network, chosen, handle.remove)

    for gradient, other in zip(gradients(method), gradients(Backprop()), strict=True):
        assert relative_error(gradient, other) < 1e-10


@pytest.mark.parametrize("method", [*METHODS, Backprop(), None], ids=repr)
def test_answers_in_one_static_buffer(method: GradientMethod | None) -> None:
    """As CUDA graphs and TensorRT give them; ``None`` samples without gradients."""

    class Static(Network):
        def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
            output = super().forward(x, t, emb)
            if torch.is_grad_enabled():
                return output
            if not hasattr(self, "out"):
                self.out = torch.empty_like(output)
            return self.out.copy_(output)

    noise, emb = _inputs()
    with torch.set_grad_enabled(method is not None):
        found = _sampler(Static(), method)(noise, emb=emb)
        expected = _sampler(Network(), method)(noise, emb=emb)
    assert torch.equal(found, expected)


def test_conditioning_that_only_late_calls_use() -> None:
    class Late(Network):
        def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
            return super().forward(x, t, emb if t[0] < 0.4 else torch.zeros_like(emb))

    _assert_like_backprop(Late, Exact())


def test_second_derivatives_of_a_call_that_is_run_again() -> None:
    layer = nn.Linear(3, 3).double()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    results = []
    for call in (lambda x: Recompute()(lambda y: layer(y).sin(), layer, (x,), {}),
                 lambda x: layer(x).sin()):  # fmt: skip
        (first,) = torch.autograd.grad(call(x).sum(), x, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), [x, layer.weight]))
    for gradient, reference in zip(*results, strict=True):
        assert relative_error(gradient, reference) < 1e-12


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_closures_retained_graphs_and_accumulation(method: GradientMethod) -> None:
    network = Network()
    noise, emb = _inputs()
    optimizer = torch.optim.LBFGS([emb], max_iter=3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(_sampler(network, method)(noise, emb=emb))
        loss.backward()
        return loss

    optimizer.step(closure)
    loss = objective(_sampler(network, method)(noise, emb=emb))
    network.zero_grad()
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in network.used if p.grad is not None]
    loss.backward()
    for gradient, weight in zip(once, network.used, strict=True):
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, 2 * gradient)


# What raises


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize(
    "change",
    [
        lambda n: n.first.weight.detach().mul_(1.1),
        lambda n: n.load_state_dict({k: 2 * v for k, v in n.state_dict().items()}),
        lambda n: n.half(),
    ],
    ids=["in place", "load_state_dict", "half"],
)
def test_frozen_weights_that_change_are_named(method: GradientMethod, change: Any) -> None:
    network = Network().requires_grad_(False)
    with pytest.raises(RuntimeError, match=r"changed in place between.*first\.weight"):
        _gradients(network, method, lambda: change(network))


@pytest.mark.parametrize("method", [Exact(), Exact(max_latents=2), Truncated(3)], ids=repr)
def test_conditioning_that_changes_is_noticed(method: GradientMethod) -> None:
    noise, emb = _inputs()
    constant = emb.detach().clone()
    sample = _sampler(Network(), method)(noise, emb=constant)
    constant.mul_(2)
    with pytest.raises(RuntimeError, match="conditioning was changed in place"):
        sample.sum().backward()


class OwnGenerator(Network):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
        drawn = torch.rand(x.shape, generator=self.generator, dtype=x.dtype)
        return super().forward(x * (drawn > 0.3), t, emb)


class NumpyNumbers(Network):
    def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
        return super().forward(x * torch.from_numpy(np.random.rand(*x.shape)), t, emb)


class PythonNumbers(Network):
    def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
        return super().forward(x * random.random(), t, emb)


class HiddenCounter(Network):
    def __init__(self) -> None:
        super().__init__()
        self.controller = type("Controller", (), {"step": 0})()

    def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
        self.controller.step += 1
        return super().forward(x, t, emb) / self.controller.step


class Caching(Network):
    """Skips its first layer in every second call, with what it found in the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = None

    def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
        if self.kept is not None:
            hidden, self.kept = self.kept, None
            return self.second(hidden) + 0.1 * x
        self.kept = torch.tanh(self.first(torch.cat([x, t[:, None], emb], 1)))
        return self.second(self.kept)


class Skipping(Network):
    """Answers with what it answered last where its input hardly changed."""

    def __init__(self) -> None:
        super().__init__()
        self.last: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
        if self.last is not None and (x - self.last[0]).detach().norm() < 0.3 * x.detach().norm():
            return self.last[1]
        self.last = x, super().forward(x, t, emb)
        return self.last[1]


@pytest.mark.parametrize("method", [Exact(), Exact(max_latents=2), Truncated(5), CoarseAdjoint(4)])
@pytest.mark.parametrize(
    "make", [OwnGenerator, NumpyNumbers, PythonNumbers, HiddenCounter, Caching, Skipping]
)
def test_networks_that_remember_are_refused(make: Any, method: GradientMethod) -> None:
    with pytest.raises((RerunError, ValueError, RuntimeError), match=r"cache|again"):
        _gradients(make(), method)


class Memory(Network):
    """Keeps what it makes of its conditioning, in a place that no snapshot sees."""

    def __init__(self, key: Callable[[int, float], Any]) -> None:
        super().__init__()
        self.controller = type("Controller", (), {})()
        self.controller.kept, self.controller.calls = {}, 0
        self.key = key

    def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
        key, kept = self.key(self.controller.calls, float(t[0])), self.controller.kept
        self.controller.calls += 1
        if key not in kept or key is None:
            kept[key] = torch.tanh(emb)
        return super().forward(x, t, kept[key])


@pytest.mark.parametrize(
    "method", [Exact(), Exact(max_latents=2), Truncated(5), CoarseAdjoint(STEPS)], ids=repr
)
@pytest.mark.parametrize(
    "key",
    [lambda k, t: 0, lambda k, t: t, lambda k, t: 0 if k > 2 else None],
    ids=["one for all", "one for each time", "from the fourth call on"],
)
def test_networks_that_keep_what_they_computed_are_refused(
    key: Any, method: GradientMethod
) -> None:
    """Their answers are the same when they are run again, and a gradient would be missing."""
    with pytest.raises(RerunError, match="Switch that"):
        _gradients(Memory(key), method)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("change", [1e-3, 1e-1])
@pytest.mark.parametrize("method", [Exact(), Exact(max_latents=2), Symplectic()], ids=repr)
def test_a_small_change_without_a_trace_is_noticed(
    dtype: torch.dtype, change: float, method: GradientMethod
) -> None:
    network, sample = _sampled_in(dtype, method)
    network.first.weight.data.mul_(1 + change)
    with pytest.raises(RerunError, match="another answer"):
        sample.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_what_differs_from_run_to_run_like_rounding_is_no_change(dtype: torch.dtype) -> None:
    network, sample = _sampled_in(dtype, Exact(), noise=0.2 * TOLERANCES[dtype])
    sample.sum().backward()
    assert all(weight.grad is not None for weight in network.used)


def _sampled_in(
    dtype: torch.dtype, method: GradientMethod, noise: float = 0.0
) -> tuple[SmallNetwork, Tensor]:
    """Return a network and its sample; its answers differ from run to run by a relative noise."""

    class Noisy(Network):
        def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
            drawn = torch.from_numpy(np.random.randn(*x.shape)).to(torch.float32)
            return super().forward(x, t, emb).float() * (1 + noise * drawn)

    torch.manual_seed(1)
    weights = torch.promote_types(dtype, torch.float32)
    x, emb = torch.randn(128, 4, dtype=weights), torch.randn(128, 3, dtype=weights)
    network = Noisy(weights) if noise else Network(weights)
    with torch.autocast("cpu", dtype, enabled=dtype != weights):
        return network, _sampler(network, method)(x.requires_grad_(), emb=emb)


def _scaled(function: Callable[..., Tensor], factor: float) -> Any:
    class Scaled:
        """A method that is exchanged in a way that no snapshot sees."""

        def __call__(self, *args: Any) -> Tensor:
            return factor * function(*args)

    return Scaled()


@pytest.mark.parametrize("method", [*METHODS, Backprop(), None], ids=repr)
@pytest.mark.parametrize("what", ["input x", "conditioning ['emb']"])
@pytest.mark.parametrize("recorded", [False, True])
def test_networks_that_write_into_what_they_are_given(
    method: GradientMethod | None, what: str, recorded: bool
) -> None:
    class Writing(Network):
        def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
            with torch.set_grad_enabled(recorded and torch.is_grad_enabled()):
                (x if what == "input x" else emb).mul_(0.99)
            return super().forward(x, t, emb)

    noise, emb = _inputs()
    with (
        torch.set_grad_enabled(method is not None),
        pytest.raises((ValueError, RuntimeError)) as caught,
    ):
        _sampler(Writing(), method)(noise.detach(), emb=emb.detach()).sum()
    assert "wrote into" in str(caught.value)
    assert what in str(caught.value)


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("with_sample", [False, True])
def test_tensors_that_are_collected_on_the_way(method: GradientMethod, with_sample: bool) -> None:
    network, collected = Network(), []
    handle = network.first.register_forward_hook(lambda *a: collected.append(a[2]))
    noise, emb = _inputs()
    sample = _sampler(network, method)(noise, emb=emb)
    handle.remove()
    loss = sum((maps.square().mean() for maps in collected), torch.zeros(()))
    with pytest.raises(RuntimeError, match="collected during sampling"):
        (loss + sample.sum() if with_sample else loss).backward()


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_captured_tensors_that_only_some_calls_use(method: GradientMethod) -> None:
    captured = torch.full((4,), 0.1, dtype=torch.float64, requires_grad=True)

    class Capturing(Network):
        def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
            output = super().forward(x, t, emb)
            return output + captured if t[0] < 0.4 else output

    with pytest.raises(ValueError, match="neither a weight of it nor passed"):
        _gradients(Capturing(), method)


@pytest.mark.parametrize("method", [Exact(), Backprop()], ids=repr)
def test_what_is_not_finite_is_noticed_without_gradients(method: GradientMethod) -> None:
    network = Network()
    with torch.no_grad():
        network.second.bias.fill_(torch.nan)
        with pytest.raises(FloatingPointError, match="network call 0"):
            _sampler(network, method)(some_noise(), emb=some_emb())


def test_a_gradient_of_weights_that_is_not_finite_is_named() -> None:
    class Infinite(Network):
        def __init__(self) -> None:
            super().__init__()
            self.zero = nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, x: Tensor, t: Tensor, emb: Tensor, extra: Any = None) -> Tensor:
            return super().forward(x, t, emb) + self.zero.sqrt()

    with pytest.raises(FloatingPointError, match=r"the weight .*zero"):
        _gradients(Infinite(), Exact())


# What torch.func does


def test_transforms_of_torch_func_see_ordinary_operations() -> None:
    sampler, reference = _sampler(Network()), _sampler(Network(), Backprop())
    noise, emb = (x.detach() for x in _inputs())

    def loss(x: Tensor) -> Tensor:
        return objective(sampler(x, emb=emb))

    leaf = noise.clone().requires_grad_()
    (expected,) = torch.autograd.grad(objective(reference(leaf, emb=emb)), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(noise), expected)
    value, pull = torch.func.vjp(loss, noise)
    torch.testing.assert_close(pull(torch.ones_like(value))[0], expected)
    torch.testing.assert_close(torch.func.jacrev(loss)(noise), expected)
    _, along = torch.func.jvp(loss, (noise,), (expected,))
    torch.testing.assert_close(along, expected.square().sum())
    weights = {name: p.detach() for name, p in sampler.named_parameters()}

    def of_weights(weights: dict[str, Tensor]) -> Tensor:
        return objective(torch.func.functional_call(sampler, weights, (noise,), {"emb": emb}))

    found = torch.func.grad(of_weights)(weights)
    used = dict(reference.named_parameters())
    (gradient,) = torch.autograd.grad(
        objective(reference(noise, emb=emb)), used["denoiser.network.first.weight"]
    )
    torch.testing.assert_close(found["denoiser.network.first.weight"], gradient)


@pytest.mark.parametrize("method", [Truncated(2), ContinuousAdjoint(), Reversible()], ids=repr)
def test_methods_that_no_transform_passes_say_so(method: GradientMethod) -> None:
    noise, emb = (x.detach() for x in _inputs())
    sampler = _sampler(Network(), method)
    with pytest.raises(RuntimeError, match=r"torch\.func.*Exact\(\)"):
        torch.func.grad(lambda x: sampler(x, emb=emb).sum())(noise)


# What others notice


def test_random_numbers_of_other_threads_are_not_drawn_again() -> None:
    sampler = _sampler(Network())
    noise, emb = _inputs()
    drawn: list[float] = []
    stop = threading.Event()

    def draw() -> None:
        while not stop.is_set():
            drawn.append(float(torch.rand((), dtype=torch.float64)))

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        for _ in range(10):
            objective(sampler(noise, emb=emb)).backward()
    finally:
        stop.set()
        thread.join()
    assert len(drawn) == len(set(drawn)) > 0


def test_dropout_in_two_threads_has_the_masks_of_its_sample() -> None:
    failures: list[BaseException] = []

    def work(network: nn.Module, noise: Tensor, emb: Tensor) -> None:
        try:
            for _ in range(20):
                objective(_sampler(network, Exact())(noise, emb=emb)).backward()
        except BaseException as error:
            failures.append(error)

    # Made before, since they are drawn from the same random state.
    inputs = [(SmallNetwork(dropout=0.4).train(), some_noise(), some_emb()) for _ in range(2)]
    threads = [threading.Thread(target=work, args=each) for each in inputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("method", [*METHODS, Exact(offload=True), Backprop()], ids=repr)
def test_nothing_grows(method: GradientMethod) -> None:
    """Objects are counted with the collector off: a cycle would keep its tensors alive."""
    network = Network()
    noise, emb = _inputs()
    sampler = _sampler(network, method)

    def gradient() -> None:
        noise.grad = emb.grad = None
        network.zero_grad()
        objective(sampler(noise, emb=emb)).backward()

    def tensors() -> int:
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    # Only what is made from here on is looked at: the rest of the process takes seconds. It stays
    # frozen, as what was imported does for all tests.
    gc.freeze()
    try:
        for _ in range(3):
            gradient()
        gc.collect()
        gc.disable()
        before = tensors()
        for _ in range(GRADIENTS):
            gradient()
        assert tensors() <= before
    finally:
        gc.enable()


def test_copies_of_a_module_do_not_share_what_stands_in_for_weights() -> None:
    network = Network()
    _gradients(network, Exact())
    twin = copy.deepcopy(network)
    for weight, other in zip(network.parameters(), twin.parameters(), strict=True):
        assert type(weight) is type(other) is nn.Parameter
        assert weight.data_ptr() != other.data_ptr()
