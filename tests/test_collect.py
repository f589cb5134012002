"""What network calls give beside their output: collected, stacked, and differentiated exactly."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from mixtures import PROCESSES
from networks import SmallNetwork, objective, relative_error, some_emb, some_noise
from torch import Tensor, nn
from torch.utils import _pytree as pytree

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
    Trajectory,
    Truncated,
    solvers,
)
from adjointdpm.prediction import PREDICTION_TYPES, to_sample

VP = PROCESSES["vp"]
STEPS = 5
METHODS = [
    Exact(),
    Exact(memory_budget="1GiB"),
    Exact(memory_budget=9000),
    Exact(max_latents=1),
    Exact(offload=True),
    Truncated(last=100),
    Backprop(checkpoint=True),
]


class Telling(nn.Module):
    """Answers with features of its own beside the prediction."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.network = SmallNetwork(dtype=dtype)
        self.gate = nn.Linear(4, 2, dtype=dtype)

    def forward(self, x: Tensor, t: Tensor, emb: Tensor) -> tuple[Tensor, dict[str, Any]]:
        features = self.gate(x).sin() * emb[:, :1]
        # A map with rows for two heads of each sample, as attention has.
        heads = torch.stack([features, 2 * features], 1).flatten(0, 1)
        return self.network(x, t, emb), {"features": [features], "heads": heads}


def _collect(k: int, t: float, x: Tensor, output: Tensor, answer: Any) -> dict[str, Any]:
    answers = answer if isinstance(answer[0], tuple) else (answer,)
    return {
        "features": [each[1]["features"][0] for each in answers],
        "heads": answers[-1][1]["heads"],
        "loss": (x * output).sum() * (1 + k),
        "both": (x.sin(), output**2),
        "number": torch.tensor(k),
    }


def _loss(sample: Tensor, collected: Any, which: str) -> Tensor:
    losses = {
        "features": sum(x.square().sum() for x in collected["features"]),
        "heads": (collected["heads"] ** 3).sum(),
        "loss": collected["loss"].sin().sum(),
        "latents": collected["both"][0].sum() * collected["both"][1].mean(),
        "late": collected["loss"][-1],
        "early": collected["loss"][0],
        "sample": objective(sample),
    }
    if which != "all":
        return losses[which]
    return sum(losses.values(), torch.zeros(()))


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize(
    "which", ["all", "features", "heads", "loss", "latents", "late", "early", "sample"]
)
def test_exact_with_what_was_collected(method: GradientMethod, which: str) -> None:
    network = Telling()
    noise, emb = some_noise(), some_emb()
    targets = [noise, emb, *network.network.used, *network.gate.parameters()]
    plan = solvers.build("dpmpp_2m", VP, STEPS)

    def gradients(chosen: GradientMethod) -> tuple[Any, list[Tensor | None]]:
        sampler = Sampler(Denoiser(network, VP), plan, chosen)
        sample, collected = sampler(noise, collect=_collect, emb=emb)
        loss = _loss(sample, collected, which)
        return (sample, collected), list(torch.autograd.grad(loss, targets, allow_unused=True))

    (sample, collected), found = gradients(method)
    (expected_sample, expected), references = gradients(Backprop())
    assert torch.equal(sample, expected_sample)
    assert collected["number"].tolist() == list(range(STEPS))
    assert collected["loss"].shape == (STEPS,)
    for value, reference in zip(collected["both"], expected["both"], strict=True):
        assert torch.equal(value, reference)
    for gradient, reference in zip(found, references, strict=True):
        if reference is None:
            assert gradient is None or not gradient.any()
        else:
            assert gradient is not None
            assert relative_error(gradient, reference) < 1e-11


@pytest.mark.parametrize("passes", ["batched", "sequential"])
@pytest.mark.parametrize("clip", [{}, {"clip_sample": True}])
def test_with_guidance_there_are_two_answers(passes: Any, clip: dict[str, Any]) -> None:
    network = Telling()
    noise, emb, negative = some_noise(), some_emb(), some_emb()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    targets = [noise, emb, negative, scale, *network.gate.parameters()]
    plan, results = solvers.build("ddim", VP, STEPS), []
    for method in (Exact(), Backprop()):
        sampler = Sampler(
            Denoiser(network, VP, guidance_scale=scale, guidance_passes=passes, **clip),
            plan,
            method,
        )
        cond = {"emb": emb, "negative_emb": negative}
        sample, collected = sampler(noise, collect=_collect, **cond)
        results.append(torch.autograd.grad(_loss(sample, collected, "all"), targets))
    for gradient, reference in zip(*results, strict=True):
        assert relative_error(gradient, reference) < 1e-11
    features = collected["features"]
    assert features[0].shape == features[1].shape == (STEPS, 3, 2)
    assert collected["heads"].shape == (STEPS, 6, 2)
    first = network.gate(noise * plan.table[0, 0]).sin()
    torch.testing.assert_close(features[0][0], first * negative[:, :1])
    torch.testing.assert_close(features[1][0], first * emb[:, :1])


def test_stochastic_plans() -> None:
    plan = Plan.from_scheduler(diffusers.DDPMScheduler(clip_sample=False), STEPS)
    noise, emb = some_noise(), some_emb()
    draws = torch.randn(STEPS, 3, 4, dtype=torch.float64)[: plan.num_draws].requires_grad_()
    denoiser, found = Denoiser(Telling(), PROCESSES["scaled_linear"]), []
    for method in (Exact(), Exact(max_latents=2), Backprop()):
        sampler = Sampler(denoiser, plan, method)
        sample, collected = sampler(noise, collect=_collect, draws=draws, emb=emb)
        found.append(torch.autograd.grad(_loss(sample, collected, "all"), [noise, emb, draws]))
    for one in found[:2]:
        for gradient, reference in zip(one, found[2], strict=True):
            assert relative_error(gradient, reference) < 1e-11


@pytest.mark.parametrize("last", [1, 3])
def test_truncated_takes_what_earlier_calls_gave_for_constants(last: int) -> None:
    network = Telling()
    noise, emb, plan = some_noise(), some_emb(), solvers.build("ddim", VP, STEPS)
    sampler = Sampler(Denoiser(network, VP), plan, Truncated(last))
    sample, collected = sampler(noise, collect=_collect, emb=emb)
    found = torch.autograd.grad(_loss(sample, collected, "all"), emb)[0]

    x, calls = noise * float(plan.table[0, 0]), []
    for k, t in enumerate(plan.timesteps.tolist()):
        is_constant = k < STEPS - last
        if k == STEPS - last:
            x = x.detach()
        answer = network(x, torch.full((3,), t, dtype=torch.float64), emb)
        made = _collect(k, t, x, answer[0], answer)
        output = answer[0].detach() if is_constant else answer[0]
        calls.append(pytree.tree_map(Tensor.detach, made) if is_constant else made)
        # A row of DDIM: a share of the input, and a weight of the output.
        keep, weight = plan.table[k + 1, 0] / plan.table[k, 0], plan.table[k + 1, 1 + k]
        x = float(keep) * x + float(weight) * output
    sample = x
    stacked = {name: torch.stack([call[name] for call in calls]) for name in ("heads", "loss")} | {
        "features": [torch.stack([call["features"][0] for call in calls])],
        "both": [torch.stack([call["both"][i] for call in calls]) for i in range(2)],
    }
    expected = torch.autograd.grad(_loss(sample, stacked, "all"), emb)[0]
    assert relative_error(found, expected) < 1e-10


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("method", [Exact(), Exact(max_latents=2), Backprop()], ids=repr)
def test_the_trajectory(prediction_type: str, method: GradientMethod) -> None:
    network = SmallNetwork()
    noise, emb = some_noise(), some_emb()
    plan = solvers.build("heun", VP, STEPS, prediction_type=prediction_type)
    sampler = Sampler(Denoiser(network, VP, prediction_type), plan, method)
    path = sampler.trajectory(noise, emb=emb)
    assert isinstance(path, Trajectory)
    assert torch.equal(path.sample, sampler(noise, emb=emb))
    assert path.timesteps.tolist() == plan.timesteps.tolist()
    for t, x, x_0 in zip(
        plan.timesteps.tolist(), path.latents, path.pred_original_sample, strict=True
    ):
        of_x, of_output = to_sample(prediction_type, VP.alpha(t), VP.sigma(t))
        output = network(x, torch.full((3,), t, dtype=x.dtype), emb)
        torch.testing.assert_close(x_0, of_x * x + of_output * output)
    reference = Sampler(sampler.denoiser, plan, Backprop()).trajectory(noise, emb=emb)
    gradients = [
        torch.autograd.grad(
            (p.latents**2).sum() + p.pred_original_sample.sin().sum() + objective(p.sample),
            [noise, emb, *network.used],
        )
        for p in (path, reference)
    ]
    for gradient, expected in zip(*gradients, strict=True):
        assert relative_error(gradient, expected) < 1e-11


def test_the_trajectory_in_inference_mode() -> None:
    plan = solvers.build("ddim", VP, STEPS)
    sampler, noise = Sampler(Denoiser(lambda x, t: x.sin(), VP), plan), some_noise()
    with torch.inference_mode():
        path = sampler.trajectory(noise)
    assert torch.equal(path.latents, sampler.trajectory(noise).latents)


def test_the_trajectory_is_that_of_diffusers() -> None:
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    noise = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    plan = Plan.from_scheduler(scheduler, 6)
    denoiser = Denoiser(lambda x, t: x.sin(), PROCESSES["scaled_linear"])
    denoiser.schedule = type(denoiser.schedule).from_config(scheduler.config)
    path = Sampler(denoiser, plan).trajectory(noise)
    scheduler.set_timesteps(6)
    x = noise
    for k, t in enumerate(scheduler.timesteps):
        torch.testing.assert_close(path.latents[k], x, rtol=1e-5, atol=1e-5)
        stepped = scheduler.step(x.sin(), t, x)
        x = stepped.prev_sample
        torch.testing.assert_close(
            path.pred_original_sample[k], stepped.pred_original_sample, rtol=1e-4, atol=1e-4
        )
    torch.testing.assert_close(path.sample, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", [Exact(), Backprop()], ids=repr)
def test_maps_that_a_hook_stored(method: GradientMethod) -> None:
    """Attend-and-Excite: a hook keeps the maps of the call, and collect hands them over."""
    network, store = Telling(), []
    network.gate.register_forward_hook(lambda module, args, output: store.append(output))
    noise, emb = some_noise(), some_emb()

    def collect(k: int, t: float, x: Tensor, output: Tensor, answer: Any) -> Tensor:
        maps = store[-1]
        store.clear()
        return maps

    sampler = Sampler(Denoiser(network, VP), solvers.build("ddim", VP, STEPS), method)
    sample, maps = sampler(noise, collect=collect, emb=emb)
    found = torch.autograd.grad(maps.square().sum() + sample.sum(), noise)[0]
    plain = Sampler(Denoiser(network, VP), solvers.build("ddim", VP, STEPS), Backprop())
    sample, expected_maps = plain(noise, collect=lambda *call: call[2] + 0, emb=emb)
    loss = network.gate(expected_maps).square().sum() + sample.sum()
    assert relative_error(found, torch.autograd.grad(loss, noise)[0]) < 1e-11


def test_under_no_grad_and_with_frozen_weights() -> None:
    network, noise, emb = Telling().requires_grad_(False), some_noise(), some_emb()
    sampler = Sampler(Denoiser(network, VP), solvers.build("ddim", VP, STEPS))
    with torch.no_grad():
        sample, collected = sampler(noise, collect=_collect, emb=emb)
    assert not sample.requires_grad
    assert not collected["loss"].requires_grad
    attached = sampler(noise, collect=_collect, emb=emb)[1]
    assert torch.equal(attached["loss"].detach(), collected["loss"])
    assert not attached["number"].requires_grad
    attached["loss"].sum().backward()
    assert noise.grad is not None


@pytest.mark.parametrize(
    "method", [Symplectic(), Reversible(), ContinuousAdjoint(), CoarseAdjoint(3)], ids=repr
)
def test_other_methods_refuse(method: GradientMethod) -> None:
    sampler = Sampler(Denoiser(Telling(), VP), solvers.build("ddim", VP, STEPS), method)
    with pytest.raises(ValueError, match=r"gradient of the sample only.*use Exact\(\)"):
        sampler(some_noise(), collect=_collect, emb=some_emb())
    with pytest.raises(ValueError, match="gradient of the sample only"):
        sampler.trajectory(some_noise(), emb=some_emb())


@pytest.mark.parametrize("method", [Exact(), Backprop()], ids=repr)
@pytest.mark.parametrize(
    ("collect", "error", "message"),
    [
        (lambda k, *_: 1.0, TypeError, "returned 1.0 in network call 0; it must return a tensor"),
        (lambda k, *_: None, TypeError, "returned None"),
        (lambda k, *_: torch.ones(1 + k), ValueError, r"shape \(2,\) in network call 1"),
        (lambda k, *_: [torch.ones(2)] * (1 + k), ValueError, "nested alike"),
        (lambda k, t, x, y, a: x.mul_(2), (ValueError, RuntimeError), "collect wrote into|leaf"),
        ("maps", TypeError, "collect must be a function"),
    ],
)
def test_wrong_functions(collect: Any, error: Any, message: str, method: GradientMethod) -> None:
    sampler = Sampler(Denoiser(Telling(), VP), solvers.build("ddim", VP, STEPS), method)
    with pytest.raises(error, match=message):
        sampler(some_noise(), collect=collect, emb=some_emb())
