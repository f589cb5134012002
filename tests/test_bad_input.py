"""Whatever a sampler is given, it gives the right gradient or says what is wrong, in our words."""

from __future__ import annotations

import linecache
import os
import traceback
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mixtures import PROCESSES, dense_sample
from networks import some_emb, some_noise
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import adjointdpm
from adjointdpm import (
    Backprop,
    CoarseAdjoint,
    CounterNoise,
    Denoiser,
    Exact,
    PerStep,
    Plan,
    Sampler,
    Symplectic,
    Truncated,
    solvers,
)

SOURCE = str(Path(adjointdpm.__file__).parent)
EXAMPLES = int(os.environ.get("ADJOINTDPM_EXAMPLES", "300"))
"""How many cases are drawn; set it to 10000 for a long run."""

VP = PROCESSES["scaled_linear"]
STEPS, BATCH = 3, 3
OURS = (ValueError, TypeError, FloatingPointError)


def _is_ours(error: BaseException) -> bool:
    """Say whether an error is one that the library raises in so many words."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(where.filename, where.lineno or 0).strip()
    return isinstance(error, OURS) and where.filename.startswith(SOURCE) and line[:5] == "raise"


def _cyclic() -> Any:
    nest: dict[str, Any] = {}
    nest["itself"] = [nest]
    return nest


def _nested_tensor() -> Tensor:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


ANSWERS: dict[str, Any] = {
    "None": lambda y: None,
    "a float": lambda y: 1.5,
    "NumPy": lambda y: y.detach().numpy(),
    "an empty list": lambda y: [],
    "an empty tuple": lambda y: (),
    "an empty dict": lambda y: {},
    "text": lambda y: "sample",
    "a list of text": lambda y: ["sample", y],
    "an int": lambda y: 3,
    "a set": lambda y: {1},
    "a class": lambda y: Tensor,
    "a function": lambda y: lambda: y,
    "integers": lambda y: y.long(),
    "booleans": lambda y: y > 0,
    "complex numbers": lambda y: y.to(torch.complex64),
    "sparse": lambda y: y.to_sparse(),
    "nested": lambda y: _nested_tensor(),
    "another shape": lambda y: y[:, :2],
    "another batch": lambda y: y[:1],
    "one more dimension": lambda y: y[None],
    "a number of a tensor": lambda y: y.sum(),
    "another device": lambda y: y.to("meta"),
    "a dict of another key": lambda y: {"prediction": y, "aux": 0 * y},
    "a tuple of a tuple": lambda y: ((y,),),
    "a distribution": lambda y: torch.distributions.Normal(y, 1.0),
    "an object without": lambda y: SimpleNamespace(prediction=y),
    "not finite": lambda y: y / 0.0,
}
"""What a network must not answer, made from what it should."""

GOOD_ANSWERS: dict[str, Any] = {
    "a tensor": lambda y: y,
    "float32": lambda y: y.float(),
    "a tuple": lambda y: (y, "rest"),
    "a list": lambda y: [y],
    "a dict": lambda y: {"sample": y, "features": y},
    "an ordered dict": lambda y: OrderedDict(sample=y),
    "an object": lambda y: SimpleNamespace(sample=y),
    "diffusers' output": lambda y: UNet2DOutput(sample=y),
    "a view of strides": lambda y: y.t().contiguous().t(),
}


class Network(nn.Module):
    """Takes any conditioning, uses every tensor of it, and answers in a given way."""

    def __init__(self, wrap: Any = lambda y: y) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, dtype=torch.float64)
        self.wrap = wrap

    def forward(self, /, *args: Any, **cond: Any) -> Any:
        return self.wrap(self.compute(*args, **cond))

    def compute(self, x: Tensor, t: Tensor, /, **cond: Any) -> Tensor:
        total = self.linear(x) + (t / 1000).to(x.dtype)[:, None]
        for i, leaf in enumerate(pytree.tree_leaves(cond)):
            if isinstance(leaf, Tensor) and not leaf.is_nested and leaf.numel():
                leaf = leaf.to_dense() if leaf.layout != torch.strided else leaf
                leaf = (leaf.real if leaf.is_complex() else leaf).to(x.dtype)
                rows = leaf.ndim > 0 and len(leaf) in (1, len(x))
                total = total + (i + 1) * (
                    leaf.reshape(len(leaf), -1).sin().mean(1, keepdim=True)
                    if rows
                    else leaf.sin().mean()
                )
            elif isinstance(leaf, float | int):
                total = total + leaf
            elif isinstance(leaf, np.ndarray):
                total = total + float(leaf.sum())
        return total.tanh()


class Strict(nn.Module):
    """Takes one kind of conditioning, by diffusers' names."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Any = None) -> Any:
        return self.network.compute(sample, timestep, emb=encoder_hidden_states)


@pytest.mark.parametrize("wrap", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("method", [Backprop(), Exact()], ids=repr)
def test_bad_answers(wrap: Any, method: Any) -> None:
    sampler = Sampler(Denoiser(Network(wrap), VP), solvers.build("ddim", VP, STEPS), method)
    with pytest.raises(OURS) as caught:
        sampler(some_noise())
    assert _is_ours(caught.value)
    assert "answered" in str(caught.value) or "not finite" in str(caught.value)


@pytest.mark.parametrize("wrap", GOOD_ANSWERS.values(), ids=GOOD_ANSWERS)
def test_good_answers(wrap: Any) -> None:
    network = Network()
    x, t = some_noise(), torch.full((BATCH,), 500.0)
    expected = network.compute(x, t)
    network.wrap = wrap
    torch.testing.assert_close(Denoiser(network, VP)(x, 500.0), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("wrap", "output"),
    [
        (lambda y: {"prediction": y, "aux": 0 * y}, "prediction"),
        (lambda y: SimpleNamespace(prediction=y), "prediction"),
        (lambda y: ("loss", y), 1),
        (lambda y: {0: y}, 0),
    ],
)
def test_an_entry_of_the_answer_is_picked(wrap: Any, output: str | int) -> None:
    network, x = Network(wrap), some_noise()
    expected = network.compute(x, torch.full((BATCH,), 500.0))
    torch.testing.assert_close(Denoiser(network, VP, output=output)(x, 500.0), expected)
    with pytest.raises(ValueError, match="no entry 'other'"):
        Denoiser(network, VP, output="other")(x, 500.0)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Network, r"not the class Network; make an object of it: Network\(...\)"),
        ("runwayml/stable-diffusion", "not an object of type str; load it first"),
        (None, "not None"),
        (3, "not an object of type int"),
        (torch.ones(2), "not an object of type Tensor"),
        ({"unet": Network()}, "a dict of 'unet'"),
    ],
)
def test_networks_that_cannot_be_called(network: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Denoiser(network, VP)


@pytest.mark.parametrize("name", ["t", "x", "noise", "timestep", "sample", "y", "self_"])
def test_every_name_that_python_allows_reaches_the_network(name: str) -> None:
    emb, noise = some_emb(), some_noise()
    samples = [
        Sampler(Denoiser(Network(), VP), solvers.build("ddim", VP, STEPS))
        for _ in range(2)
    ]  # fmt: skip
    samples[1].load_state_dict(samples[0].state_dict())
    assert torch.equal(samples[0](noise, **{name: emb}), samples[1](noise=noise, emb=emb))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("return_answers", "cannot be passed on"),
        ("self", "'self' cannot be passed on"),
        ("timestep", r"Strict takes .*timestep.*multiple values.*wrap the network"),
        ("sample", r"multiple values for argument 'sample'"),
        ("t", r"unexpected keyword argument 't'"),
        ("generator", "generator must be a torch.Generator"),
        ("draws", r"draws must have the shape \(num_draws"),
        ("guidance_scale", "for a batch of 3|negative_<name>"),
    ],
)
def test_names_that_do_not_reach_the_network(name: str, message: str) -> None:
    sampler = Sampler(Denoiser(Strict(), VP), solvers.build("ddim", VP, STEPS))
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        sampler(some_noise(), **{name: some_emb()})
    assert _is_ours(caught.value)


def test_an_error_of_the_network_itself_is_left_alone() -> None:
    def network(x: Tensor, t: Tensor) -> Tensor:
        return x + "text"  # type: ignore[operator]

    with pytest.raises(TypeError, match="unsupported operand"):
        Denoiser(network, VP)(some_noise(), 0.5)


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"guidance_rescale": -0.1}, "from 0 to 1, not -0.1"),
    ({"guidance_rescale": float("nan")}, "from 0 to 1, not nan"),
    ({"guidance_rescale": "half"}, "guidance_rescale must be a number"),
    ({"dynamic_thresholding_ratio": 1.01}, "from 0 to 1"),
    ({"dynamic_thresholding_ratio": None}, "must be a number, not None"),
    ({"sample_max_value": 0.5}, "at least 1"),
    ({"clip_sample_range": -1}, "at least 0"),
    ({"guidance_scale": "7.5"}, "guidance_scale must be a number"),
    ({"guidance_scale": None}, "guidance_scale must be a number"),
    ({"guidance_scale": [1.0, 2.0]}, "guidance_scale must be a number"),
    ({"guidance_scale": float("nan")}, "guidance_scale must be finite, not nan"),
    ({"guidance_scale": float("inf")}, "guidance_scale must be finite"),
    ({"guidance_scale": torch.tensor([1.0, float("nan")])}, "not finite"),
    ({"guidance_scale": torch.tensor(1j)}, "real numbers"),
    ({"guidance_scale": torch.ones(2).to_sparse()}, "dense tensor"),
    ({"guidance_scale": float}, "guidance_scale must be a number"),
    ({"schedule": "linear"}, "schedule must be a Schedule"),
    ({"prediction_type": ["epsilon"]}, "must be one of epsilon"),
]


@pytest.mark.parametrize(("changed", "message"), SETTINGS, ids=str)
def test_wrong_settings(changed: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        Denoiser(**{"network": Network(), "schedule": VP, **changed})
    assert _is_ours(caught.value)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (torch.ones(2), r"shape \(2,\); for a batch of 3"),
        (torch.ones(3, 2), r"one number, \(3,\)"),
        (lambda t: None, "returned NoneType"),
        (lambda t: float("nan"), "returned nan"),
        (PerStep(torch.ones(2)), "2 entries, but ddim.* has 3 steps"),
        (PerStep(torch.ones(STEPS, 2)), "for a batch of 3"),
        ("7.5", "must be a number"),
    ],
)
def test_wrong_guidance_of_a_call(scale: Any, message: str) -> None:
    sampler = Sampler(Denoiser(Network(), VP), solvers.build("ddim", VP, STEPS))
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        sampler(some_noise(), guidance_scale=scale, emb=some_emb(), negative_emb=some_emb())
    assert _is_ours(caught.value)


@pytest.mark.parametrize("argument", ["noise", "emb", "weight"])
def test_what_is_not_finite_is_named(argument: str) -> None:
    noise, emb = some_noise(), some_emb()
    network = Network()
    with torch.no_grad():
        {"noise": noise, "emb": emb, "weight": network.linear.weight}[argument][0, 0] = torch.nan
    sampler = Sampler(Denoiser(network, VP), solvers.build("ddim", VP, STEPS))
    name = {"emb": r"\['emb'\]", "weight": "network.linear.weight"}.get(argument, argument)
    with pytest.raises(FloatingPointError, match=f"{name} is not finite: the output of"):
        sampler(noise, emb=emb)


def test_what_one_batch_cannot_hold_is_refused() -> None:
    """Both passes would get the conditional one's."""
    noise, emb = some_noise(), some_emb()
    for passes in ("batched", "sequential"):
        sampler = Sampler(
            Denoiser(Network(), VP, guidance_scale=3.0, guidance_passes=passes),  # type: ignore[arg-type]
            solvers.build("ddim", VP, STEPS),
        )
        for pair in [(1.0, 2.0), (np.ones(3), np.zeros(3)), (torch.tensor(1.0), torch.tensor(2.0))]:
            cond = {"emb": emb, "negative_emb": emb, "a": pair[0], "negative_a": pair[1]}
            if passes == "sequential":
                sampler(noise, **cond)
                continue
            with pytest.raises(ValueError, match=r"\['a'\].*guidance_passes='sequential'"):
                sampler(noise, **cond)


def test_wrong_parts_of_a_sampler() -> None:
    plan = solvers.build("ddim", VP, STEPS)
    with pytest.raises(TypeError, match="gradient must be a GradientMethod object, not 'exact'"):
        Sampler(Denoiser(Network(), VP), plan, "exact")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="plan must be a Plan"):
        Sampler(Denoiser(Network(), VP), diffusers.DDIMScheduler())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="denoiser must be a Denoiser"):
        Sampler(Network(), plan)  # type: ignore[arg-type]


def _tensor(shape: tuple[int, ...], requires_grad: bool, kind: str) -> Tensor:
    dtype = {"complex": torch.complex128, "half": torch.bfloat16, "int": torch.int64}.get(kind)
    if kind == "int":
        return torch.arange(int(np.prod(shape))).reshape(shape)
    generator = torch.Generator().manual_seed(sum(shape) + len(kind))
    tensor = torch.randn(shape, dtype=dtype or torch.float64, generator=generator)
    if kind == "sparse":
        tensor = tensor.to_sparse()
    if kind == "meta":
        tensor = tensor.to("meta")
    return tensor.requires_grad_(requires_grad)


LEAVES = st.one_of(
    st.builds(
        _tensor,
        st.sampled_from([(3, 2), (1, 2), (3,), (), (5, 2), (2,), (0, 2), (3, 2, 2)]),
        st.booleans(),
        st.sampled_from(["real", "real", "real", "complex", "half", "int", "sparse", "meta"]),
    ),
    st.builds(
        lambda entries, shape, grad: PerStep(_tensor((entries, *shape), grad, "real")),
        st.sampled_from([STEPS, STEPS, STEPS, 2, 0]),
        st.sampled_from([(3, 2), (1, 2), (), (2, 2)]),
        st.booleans(),
    ),
    st.sampled_from([None, 1, 0.5, "text", True, b"bytes", float("nan")]),
    st.builds(lambda: np.ones(3)),
)
CONDITIONING = st.one_of(
    LEAVES,
    LEAVES.map(lambda leaf: [leaf]),
    st.tuples(LEAVES, LEAVES),
    LEAVES.map(lambda leaf: {"inner": [leaf]}),
    st.builds(_cyclic),
    st.builds(dict),
)
NAMES = st.sampled_from(
    ["emb", "negative_emb", "emb", "negative_emb", "other", "t", "x", "noise", "self", "timestep",
     "generator", "draws", "negative_", "negative_other", "guidance_scale", "plan", "cond", "k"]
)  # fmt: skip
SCALES = st.one_of(
    st.just(1.0),
    st.sampled_from([1.0, 0.0, -2.0, 7.5, 1, True, float("nan"), "4", None, np.float32(3)]),
    st.builds(
        _tensor,
        st.sampled_from([(), (3,), (1,), (2,), (3, 1), (3, 4), (4,), (3, 1, 1)]),
        st.booleans(),
        st.sampled_from(["real", "real", "half", "int", "complex", "sparse"]),
    ),
    st.sampled_from([lambda t: 3.0, lambda t: torch.tensor([1.0, 2.0, 3.0]), lambda t: "high"]),
    st.builds(lambda n: PerStep(torch.rand(n, requires_grad=True)), st.sampled_from([STEPS, 1])),
)
METHODS = st.sampled_from(
    [Exact(), Exact(memory_budget="1GiB"), Exact(max_latents=1), Symplectic(), Truncated(100),
     CoarseAdjoint(STEPS)]
)  # fmt: skip
NOISES = st.one_of(
    st.just("noise"),
    st.sampled_from([None, "text", 1.0, np.ones((3, 4)), torch.ones(3), torch.ones(3, 4).long(),
                     torch.ones(3, 4).to_sparse(), torch.ones(3, 4, dtype=torch.complex64)]),
)  # fmt: skip
SETS = st.dictionaries(
    st.sampled_from(["guidance_rescale", "clip_sample_range", "dynamic_thresholding_ratio"]),
    st.sampled_from([0.0, 0.3, 1.0, -0.5, 1.5, "a", None, float("nan")]),
    max_size=1,
)


@settings(
    max_examples=EXAMPLES, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(
    answer=st.one_of(st.none(), st.none(), st.sampled_from([*ANSWERS, *GOOD_ANSWERS])),
    cond=st.dictionaries(NAMES, CONDITIONING, max_size=3),
    scale=SCALES,
    by_call=st.booleans(),
    changed=st.one_of(st.just({}), st.just({}), SETS),
    clip=st.sampled_from([{}, {}, {"clip_sample": True}, {"thresholding": True}]),
    passes=st.sampled_from(["batched", "sequential"]),
    noise=st.one_of(st.just("noise"), st.just("noise"), NOISES),
    draws=st.sampled_from(["none", "given", "short", "generators", "few", "counters", "text"]),
    method=METHODS,
)
def test_a_gradient_is_right_or_an_error_is_ours(
    answer: str | None,
    cond: dict[str, Any],
    scale: Any,
    by_call: bool,
    changed: dict[str, Any],
    clip: dict[str, Any],
    passes: Any,
    noise: Any,
    draws: str,
    method: Any,
) -> None:
    torch.manual_seed(0)
    if isinstance(noise, str) and noise == "noise":
        noise = some_noise()
    network = Network({**ANSWERS, **GOOD_ANSWERS}[answer] if answer else lambda y: y)
    stochastic = draws != "none"
    plan = STOCHASTIC if stochastic else DETERMINISTIC
    drawn = torch.randn(STEPS, BATCH, 4, dtype=torch.float64, requires_grad=True)
    arguments: dict[str, Any] = {**cond}
    given_draws = {"given": drawn, "short": drawn[:1]}.get(draws)
    seeds = {"generators": 3, "few": 2}.get(draws)
    if given_draws is not None:
        arguments["draws"] = given_draws
    elif seeds:
        arguments["generator"] = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
    elif draws == "counters":
        arguments["generator"] = CounterNoise([5, 6, 7])
    elif draws == "text":
        arguments["generator"] = "text"
    if by_call:
        arguments["guidance_scale"] = scale
        scale = 1.0
    leaves = [noise, drawn, scale, *pytree.tree_leaves({k: v for k, v in arguments.items()
              if not _contains_itself(v)}), *network.parameters()]  # fmt: skip
    leaves += [leaf.values for leaf in leaves if isinstance(leaf, PerStep)]
    targets = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]

    def gradient(chosen: Any) -> list[Tensor | None]:
        for one in arguments.values():
            if isinstance(one, list) and one and isinstance(one[0], torch.Generator):
                for seed, generator in enumerate(one):
                    generator.manual_seed(seed)
        sampler = Sampler(
            Denoiser(network, VP, guidance_scale=scale, guidance_passes=passes, **clip, **changed),
            plan,
            chosen,
        )
        sample = sampler(noise, **arguments)
        assert sample.isfinite().all()
        loss = (sample.sin() * torch.arange(4)).sum()
        return [sample.detach(), *torch.autograd.grad(loss, targets, allow_unused=True)]

    try:
        found = gradient(method)
    except Exception as error:
        if not _is_ours(error):
            raise
        return
    expected = gradient(Backprop())
    tolerance = 1e-4 if answer == "float32" else 1e-9
    if passes == "batched":
        passes = "sequential"
        sequential = gradient(Backprop())
        _assert_close(expected, sequential, tolerance)
    _assert_close(found, expected, tolerance)
    by_hand_too = not by_call and isinstance(scale, float) and scale == 1.0
    by_hand_too &= not {"generator", "draws", "guidance_scale"} & set(cond)
    if plan is DETERMINISTIC and not (clip or changed) and by_hand_too:
        with torch.no_grad():
            by_hand = dense_sample(plan, lambda x, t: _by_hand(network, x, t, cond), noise)
        torch.testing.assert_close(found[0], by_hand, rtol=tolerance, atol=tolerance)


DETERMINISTIC = solvers.build("ddim", VP, STEPS)
STOCHASTIC = Plan.from_scheduler(diffusers.DDPMScheduler(clip_sample=False), STEPS)


def _contains_itself(value: Any) -> bool:
    try:
        pytree.tree_leaves(value)
    except RecursionError:
        return True
    return False


def _by_hand(network: Network, x: Tensor, t: Tensor, cond: dict[str, Any]) -> Tensor:
    """Return the answer without guidance, with the entries of a step picked by hand."""
    k = DETERMINISTIC.timesteps.tolist().index(float(t[0]))
    positive = {name: value for name, value in cond.items() if not name.startswith("negative_")}
    picked = pytree.tree_map(
        lambda leaf: leaf.values[k] if isinstance(leaf, PerStep) else leaf,
        positive,
        is_leaf=lambda leaf: isinstance(leaf, PerStep),
    )
    picked = pytree.tree_map_only(
        Tensor, lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, picked
    )
    return network.compute(x, t.double(), **picked)


def _assert_close(
    found: list[Tensor | None], expected: list[Tensor | None], tolerance: float
) -> None:
    for gradient, reference in zip(found, expected, strict=True):
        if gradient is None or reference is None:
            for one in (gradient, reference):
                assert one is None or not one.any()
            continue
        if gradient.dtype == torch.bfloat16:  # added up call by call, in another order
            tolerance = max(tolerance, 0.03)
        error = (gradient - reference).double().abs().max() if gradient.numel() else 0.0
        assert float(error) <= tolerance * (1 + float(reference.double().abs().max()))
