"""What a gradient will take, before it is computed: network calls, seconds and memory.

One network call is measured, forward and backward. Then the gradient method itself runs on the meta
device, where tensors have shapes and no values, with an imitation of the network that takes as much
memory as the network did. So no formula says what a method does: it does it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .denoiser import Denoiser, time_tensor
from .gradients import GradientMethod, Network, Run
from .memory import LiveMemory, SavedBytes, peak_on
from .plan import CounterNoise, Draws, PlanVariables, begin


@dataclass(frozen=True)
class CallCost:
    """What one call of the denoiser takes.

    Args:
        forward_seconds: of a call without a graph.
        product_seconds: of a vector-Jacobian product, the call itself taken off.
        forward_bytes: the most that a call without a graph holds at once.
        graph_bytes: what the graph of a call keeps, besides its input and the weights.
        keeps_input: whether the graph keeps the input too.
        recording_bytes: the most that a call with a graph holds at once.
        product_bytes: the most that a call and its product hold at once.
        weight_bytes: of the weights that get a gradient.
        largest_weight_bytes: of the largest of them.
    """

    forward_seconds: float
    product_seconds: float
    forward_bytes: int
    graph_bytes: int
    keeps_input: bool
    recording_bytes: int
    product_bytes: int
    weight_bytes: int
    largest_weight_bytes: int

    @property
    def passing_bytes(self) -> int:
        """What a product holds at its peak beside the graph, or the gradients that follow it."""
        return self.product_bytes - max(self.graph_bytes, self.weight_bytes)


@dataclass(frozen=True)
class Cost:
    """What one gradient takes, of the sampler alone: no objective, no decoder, no optimiser.

    Args:
        method: the gradient method.
        plan: the sampler's plan.
        forward_calls: network calls of the sampling run.
        recomputed_calls: network calls of the reverse sweep, without their products.
        products: vector-Jacobian products; 0 where nothing requires a gradient.
        seconds: of the network calls and products, one after the other.
        peak_memory: the most bytes at once, beside what is there before: weights, noise and
            conditioning. On a CUDA device as its allocator counts, elsewhere the sum of tensors.
            `Backprop` may take less, by the gradients of the weights at most: autograd adds them
            up layer by layer.
        call: what one network call takes.
    """

    method: str
    plan: str
    forward_calls: int
    recomputed_calls: int
    products: int
    seconds: float
    peak_memory: int
    call: CallCost

    def to_json(self) -> str:
        """Return all numbers as JSON."""
        return json.dumps(asdict(self), indent=2)

    def __str__(self) -> str:
        rows = [
            ("network calls, forward", f"{self.forward_calls}"),
            ("network calls, run again", f"{self.recomputed_calls}"),
            ("vector-Jacobian products", f"{self.products}"),
            ("seconds", f"{self.seconds:.3g}"),
            ("peak memory", f"{self.peak_memory / 2**20:.1f} MiB"),
            ("graph of one call", f"{self.call.graph_bytes / 2**20:.1f} MiB"),
        ]
        lines = [f"{name:26s} {value:>12s}" for name, value in rows]
        return "\n".join([f"{self.method} on {self.plan}", *lines])


def predict(method: GradientMethod, run: Run) -> Cost:
    """Return what the gradient of a run will take, from one network call.

    Args:
        method: the gradient method.
        run: what is to be run.

    Raises:
        ValueError: the method takes as many steps as the network's values make it take.
    """
    call = _measure(run)
    imitation = _Imitation(call, run.denoiser.network_dtype)
    with LiveMemory() as memory:
        try:
            forward_calls = _rehearse(method.on(run.noise.device), run, imitation)
        except (NotImplementedError, RuntimeError) as error:
            if "meta" not in str(error):
                raise
            raise ValueError(
                f"the cost of {method!r} cannot be told before: its steps depend on what the "
                "network answers. Give it a fixed number of steps"
            ) from error
    count = imitation.count
    recomputed = count.calls - forward_calls
    return Cost(
        method=repr(method),
        plan=repr(run.plan),
        forward_calls=forward_calls,
        recomputed_calls=recomputed,
        products=count.products,
        seconds=count.calls * call.forward_seconds + count.products * call.product_seconds,
        peak_memory=memory.peak,
        call=call,
    )


def _measure(run: Run) -> CallCost:
    """Time one call and its product, after others that are looked at for their memory."""
    device = run.noise.device
    network = Network(run.denoiser, run.plan.timesteps.tolist(), run.cond, run.adjoint_scale)
    with torch.no_grad():
        x = begin(run.plan.program, run.noise, Draws(run.noise, CounterNoise(0))).x
    adjoint = torch.ones_like(x)
    saved = SavedBytes(network.constants)
    weights: list[int] = []

    def forward() -> None:
        network.run_without_graph(0, x)

    def record() -> None:
        with saved.counting():
            network.run_with_graph(0, x)

    def product() -> None:
        with network.reversing():
            network.pull_back(*network.run_with_graph(0, x), [adjoint])
            gradients = network.gradients()
        weights[:] = [g.nbytes for g in gradients[len(network.cond) :] if g is not None]

    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), network.undisturbed():
        forward_bytes = peak_on(device, forward)
        recording_bytes = peak_on(device, record)
        product_bytes = peak_on(device, product)
        if network.compiled:
            # What is looked at for its memory runs uncompiled.
            forward()
            product()
        forward_seconds, both_seconds = _seconds(forward, device), _seconds(product, device)
    return CallCost(
        forward_seconds=forward_seconds,
        product_seconds=max(both_seconds - forward_seconds, 0.0),
        forward_bytes=forward_bytes,
        graph_bytes=saved.total - (x.nbytes if saved.has(x) else 0),
        keeps_input=saved.has(x),
        recording_bytes=recording_bytes,
        product_bytes=product_bytes,
        weight_bytes=sum(weights),
        largest_weight_bytes=max(weights, default=0),
    )


def _seconds(action: Callable[[], None], device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    start = time.perf_counter()
    action()
    wait()
    return time.perf_counter() - start


def _rehearse(method: GradientMethod, run: Run, imitation: _Imitation) -> int:
    """Take the gradient on the meta device; return the calls of the sampling run."""

    def blank(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)

    noise, given = blank(run.noise), run.draws.given
    cond = pytree.tree_map_only(Tensor, blank, run.cond)
    draws = Draws(noise, CounterNoise(0), None if given is None else blank(given))
    table = run.plan.variables.table
    variables = PlanVariables.of(None if table is None else blank(table), None)
    rehearsal = Run(
        denoiser=_Whole(imitation, run.denoiser.schedule, run.denoiser.prediction_type),
        plan=replace(run.plan, variables=variables),
        noise=noise,
        draws=draws,
        cond=cond,
        check_finite=False,
        adjoint_scale=run.adjoint_scale,
    )
    sample = method.sample(rehearsal)
    calls = imitation.count.calls
    candidates = [noise, draws.given, *pytree.tree_leaves(cond), *imitation.parameters()]
    targets = [leaf for leaf in candidates if isinstance(leaf, Tensor) and leaf.requires_grad]
    if sample.requires_grad:
        torch.autograd.grad(sample, targets, torch.empty_like(sample), allow_unused=True)
    return calls


class _Whole(Denoiser):
    """A denoiser whose network stands for all of it: guidance and clipping were measured too."""

    def forward(self, x: Tensor, t: float | Tensor, /, **cond: Any) -> Tensor:
        return self.network(x, time_tensor(t, x), **cond)


@dataclass
class _Count:
    """What was asked of an imitation; beside it, since a counter on a network belongs to a call."""

    calls: int = 0
    products: int = 0


class _Imitation(nn.Module):
    """Takes the memory of a network and computes nothing; counts calls and products."""

    def __init__(self, call: CallCost, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.call, self.count = call, _Count()
        dtype = dtype if dtype is not None else torch.float32
        self.weights = nn.ParameterList()
        left = call.weight_bytes
        while left:
            size = min(call.largest_weight_bytes, left)
            left -= size
            self.weights.append(torch.empty(size // dtype.itemsize, dtype=dtype, device="meta"))

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self.count.calls += 1
        used = [leaf for leaf in pytree.tree_leaves(cond) if isinstance(leaf, Tensor)]
        inputs = [x, *(leaf for leaf in used if leaf.requires_grad)]
        if torch.is_grad_enabled() and any(t.requires_grad for t in (*inputs, *self.weights)):
            ends = [_Weight.apply(weight) for weight in self.weights]
            return _Activations.apply(self, x.detach(), _Inputs.apply(self, *inputs), *ends)
        _take(self.call.forward_bytes - x.nbytes)
        return torch.empty_like(x)


class _Inputs(torch.autograd.Function):
    """The end of an imitated graph: gradients of what went in, when the activations are gone."""

    @staticmethod
    def forward(ctx: Any, imitation: _Imitation, *inputs: Tensor) -> Tensor:
        ctx.imitation = imitation
        ctx.kinds = [(tensor.shape, tensor.dtype) for tensor in inputs]
        return torch.empty(0, device="meta")

    @staticmethod
    def backward(ctx: Any, adjoint: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [
            torch.empty(shape, dtype=dtype, device="meta") if needed else None
            for (shape, dtype), needed in zip(ctx.kinds, ctx.needs_input_grad[1:], strict=True)
        ]
        _take(ctx.imitation.call.passing_bytes)
        return None, *gradients


class _Weight(torch.autograd.Function):
    """Another end of an imitated graph: one weight, whose gradient comes by itself."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.kind = weight.shape, weight.dtype
        return torch.empty(0, device="meta")

    @staticmethod
    def backward(ctx: Any, adjoint: Tensor) -> Tensor:
        shape, dtype = ctx.kind
        return torch.empty(shape, dtype=dtype, device="meta")


class _Activations(torch.autograd.Function):
    """The body of an imitated graph: what is saved, and the peak of the backward pass."""

    @staticmethod
    def forward(ctx: Any, imitation: _Imitation, x: Tensor, *ends: Tensor) -> Tensor:
        call = imitation.call
        saved = torch.empty(call.graph_bytes, dtype=torch.uint8, device="meta")
        ctx.save_for_backward(saved, *([x] if call.keeps_input else []))
        ctx.imitation, ctx.num_ends = imitation, len(ends)
        _take(call.recording_bytes - call.graph_bytes)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, adjoint: Tensor) -> tuple[Tensor | None, ...]:
        ctx.imitation.count.products += 1
        _take(ctx.imitation.call.passing_bytes - adjoint.nbytes)
        return None, None, *(torch.empty(0, device="meta") for _ in range(ctx.num_ends))


def _take(size: int) -> None:
    """Hold this many bytes for a moment."""
    torch.empty(max(size, 0), dtype=torch.uint8, device="meta")
