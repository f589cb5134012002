"""Conditioning, seeds and guidance that differ by step or by sample, with every gradient method."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from mixtures import PROCESSES
from networks import SmallNetwork, objective, relative_error, some_emb, some_noise
from torch import Tensor, nn

from adjointdpm import (
    Backprop,
    CoarseAdjoint,
    ContinuousAdjoint,
    CounterNoise,
    Denoiser,
    Exact,
    GradientMethod,
    PerStep,
    Plan,
    Reversible,
    Sampler,
    Symplectic,
    Truncated,
    sample_each,
    solvers,
)
from adjointdpm.adaptive import find_steps

VP = PROCESSES["vp"]
STEPS = 5
EXACT = [
    Exact(),
    Exact(memory_budget="1GiB"),
    Exact(max_latents=2),
    Symplectic(),
    Truncated(last=100),
    CoarseAdjoint(num_steps=100),
]
"""Methods that give the very gradient of the run (when all calls are taken)."""


def _ddim(steps: int = STEPS) -> Plan:
    return solvers.build("ddim", VP, steps)


def _embs(steps: int = STEPS, rows: int = 3) -> Tensor:
    return torch.randn(steps, rows, 3, dtype=torch.float64, requires_grad=True)


def _assert_same_gradients(
    denoiser: Denoiser,
    plan: Plan,
    method: GradientMethod,
    targets: list[Tensor],
    noise: Tensor,
    reference_plan: Plan | None = None,
    **arguments: Any,
) -> None:
    expected, gradients = (
        torch.autograd.grad(objective(Sampler(denoiser, p, m)(noise, **arguments)), targets)
        for p, m in [(reference_plan or plan, Backprop()), (plan, method)]
    )
    for gradient, reference in zip(gradients, expected, strict=True):
        assert relative_error(gradient, reference) < 1e-10


def test_each_step_has_its_entry() -> None:
    """Against steps taken one by one, each by a sampler that knows its entry alone."""
    embs, network = _embs().detach(), SmallNetwork().requires_grad_(False)
    seen = []

    def telling(x: Tensor, t: Tensor, emb: Tensor) -> Tensor:
        seen.append(emb)
        return network(x, t, emb)

    Sampler(Denoiser(telling, VP), _ddim())(some_noise(requires_grad=False), emb=PerStep(embs))
    assert torch.equal(torch.stack(seen), embs)


@pytest.mark.parametrize("solver", ["heun", "rk4", "dpmpp_2m", "unipc_bh2_2"])
def test_stages_have_the_entry_of_their_time(solver: str) -> None:
    plan, embs = solvers.build(solver, VP, STEPS), _embs().detach()
    seen: list[tuple[float, Tensor]] = []

    def network(x: Tensor, t: Tensor, emb: Tensor) -> Tensor:
        seen.append((float(t[0]), emb))
        return x.sin()

    Sampler(Denoiser(network, VP), plan)(some_noise(requires_grad=False), emb=PerStep(embs))
    starts = plan.timesteps[list(plan.step_starts or ())]
    assert len(starts) == STEPS
    for t, emb in seen:
        assert torch.equal(emb, embs[int((starts >= t - 1e-9).sum()) - 1])


@pytest.mark.parametrize("method", EXACT, ids=repr)
@pytest.mark.parametrize("passes", ["batched", "sequential"])
def test_every_entry_gets_its_gradient(method: GradientMethod, passes: Any) -> None:
    if isinstance(method, CoarseAdjoint):
        pytest.skip("refuses, see below")
    embs, negatives, noise = _embs(), _embs(rows=1), some_noise()
    denoiser = Denoiser(SmallNetwork(), VP, guidance_scale=3.0, guidance_passes=passes)
    _assert_same_gradients(
        denoiser, _ddim(), method, [noise, embs, negatives], noise,
        emb=PerStep(embs), negative_emb=PerStep(negatives),
    )  # fmt: skip
    listed = [emb.detach().requires_grad_() for emb in embs]
    sample = Sampler(denoiser, _ddim(), method)(
        noise, emb=PerStep(listed), negative_emb=negatives[0]
    )
    gradients = torch.autograd.grad(objective(sample), listed)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_entries_with_a_reversible_sampler() -> None:
    embs, noise, method = _embs(), some_noise(), Reversible()
    plan = _ddim()
    _assert_same_gradients(
        Denoiser(SmallNetwork(), VP), plan, method, [noise, embs], noise,
        reference_plan=method.reference_plan(plan, VP),
        emb=PerStep(embs, plan.timesteps[list(plan.step_starts or ())].tolist()),
    )  # fmt: skip


@pytest.mark.parametrize("method", [CoarseAdjoint(STEPS), ContinuousAdjoint()], ids=repr)
def test_entries_that_can_get_no_gradient_of_their_own_are_refused(method: GradientMethod) -> None:
    sampler = Sampler(Denoiser(SmallNetwork(), VP), _ddim(), method)
    noise, embs = some_noise(), _embs()
    with pytest.raises(ValueError, match="product of every network call"):
        sampler(noise, emb=PerStep(embs))
    sampler(noise, emb=PerStep(embs.detach())).sum().backward()
    assert noise.grad is not None


def test_the_adjoint_ode_sees_the_conditioning_of_the_time() -> None:
    """Constant entries are as none by step; and its error for others falls with the steps."""
    noise, emb = some_noise(), some_emb().detach()
    denoiser = Denoiser(SmallNetwork(), VP)

    def gradient(method: GradientMethod, steps: int, **cond: Any) -> Tensor:
        sampler = Sampler(denoiser, _ddim(steps), method)
        return torch.autograd.grad(objective(sampler(noise, **cond)), noise)[0]

    same = [
        gradient(ContinuousAdjoint(), 8, emb=value)
        for value in (emb, PerStep(emb.expand(8, -1, -1)))
    ]
    assert torch.equal(*same)
    two = _embs(2).detach()
    errors = [
        relative_error(
            gradient(ContinuousAdjoint(), n, emb=PerStep(two.repeat_interleave(n // 2, 0))),
            gradient(Exact(), n, emb=PerStep(two.repeat_interleave(n // 2, 0))),
        )
        for n in (8, 64)
    ]
    assert errors[1] < errors[0] / 3


def test_a_compiled_denoiser_gets_entries_by_the_tensor_of_its_time() -> None:
    embs, noise = _embs(), some_noise()
    denoiser = Denoiser(SmallNetwork(), VP)
    compiled: Any = torch.compile(denoiser, backend="eager")
    samples = [Sampler(d, _ddim())(noise, emb=PerStep(embs)) for d in (denoiser, compiled)]
    gradients = [torch.autograd.grad(objective(sample), [noise, embs]) for sample in samples]
    for gradient, expected in zip(*gradients, strict=True):
        assert relative_error(gradient, expected) < 1e-6


def test_entries_by_a_time_for_each_sample() -> None:
    entries = torch.arange(6.0).reshape(3, 2, 1)
    per_step = PerStep(entries, (9.0, 6.0, 3.0))
    assert per_step.at(torch.tensor([6.0, 2.0]), batch=2).flatten().tolist() == [2.0, 5.0]
    assert PerStep(entries[:, :1], (3.0, 6.0, 9.0)).at(torch.tensor(7.0), batch=2).item() == 2.0


def test_wrong_entries() -> None:
    sampler, noise = Sampler(Denoiser(SmallNetwork(), VP), _ddim()), some_noise()
    with pytest.raises(ValueError, match=r"holds 4 entries, but ddim.* has 5 steps"):
        sampler(noise, emb=PerStep(_embs(4)))
    with pytest.raises(ValueError, match="3 entries and 2 timesteps"):
        PerStep(_embs(3), timesteps=(1.0, 0.5))
    with pytest.raises(ValueError, match="one shape"):
        PerStep([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(TypeError, match="list of tensors, not of float"):
        PerStep([1.0, 2.0])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="needs a tensor"):
        PerStep("ab")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no timesteps yet"):
        Denoiser(SmallNetwork(), VP)(noise, 0.5, emb=PerStep(_embs()))


def _with_guidance(kind: str) -> tuple[Any, list[Tensor]]:
    """Return a guidance scale of a kind, and the tensors that are to get a gradient."""
    if kind == "by step":
        scale = (1 + 3 * torch.rand(STEPS, dtype=torch.float64)).requires_grad_()
        return PerStep(scale), [scale]
    if kind == "by step and sample":
        scale = (1 + 3 * torch.rand(STEPS, 3, dtype=torch.float64)).requires_grad_()
        return PerStep(scale), [scale]
    if kind == "function of the time":
        module = nn.Linear(1, 1, dtype=torch.float64)

        class OfTime(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = module

            def forward(self, t: Any) -> Tensor:
                return self.linear(torch.as_tensor([t], dtype=torch.float64))

        return OfTime(), list(module.parameters())
    shape = {"one": (), "a sample": (3,), "a channel": (1, 4)}[kind]
    scale = (1 + 3 * torch.rand(shape, dtype=torch.float64)).requires_grad_()
    return scale, [scale]


KINDS = ["one", "a sample", "a channel", "by step", "by step and sample", "function of the time"]


@pytest.mark.parametrize("method", EXACT, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("passes", ["batched", "sequential"])
def test_gradient_of_the_guidance_scale(kind: str, passes: Any, method: GradientMethod) -> None:
    if isinstance(method, CoarseAdjoint) and "step" in kind:
        pytest.skip("refuses, see above")
    scale, targets = _with_guidance(kind)
    noise, emb, negative = some_noise(), some_emb(), some_emb(1)
    denoiser = Denoiser(
        SmallNetwork(), VP, guidance_scale=scale, guidance_passes=passes, guidance_rescale=0.3
    )
    cond = {"emb": emb, "negative_emb": negative}
    _assert_same_gradients(
        denoiser, _ddim(), method, [noise, emb, negative, *targets], noise, **cond
    )


@pytest.mark.parametrize("method", [Reversible(), ContinuousAdjoint()], ids=repr)
def test_guidance_gets_a_gradient_with_the_methods_of_the_ode(method: Any) -> None:
    """Against a reversible sampler's own plan, and against the limit of many steps."""
    scale, steps = torch.tensor(3.0, dtype=torch.float64, requires_grad=True), 80
    noise, cond = some_noise(), {"emb": some_emb(), "negative_emb": some_emb(1)}
    denoiser, plan = Denoiser(SmallNetwork(), VP, guidance_scale=scale), _ddim(steps)
    reference = method.reference_plan(plan, VP) if isinstance(method, Reversible) else plan
    expected, found = (
        torch.autograd.grad(objective(Sampler(denoiser, p, m)(noise, **cond)), scale)[0]
        for p, m in [(reference, Backprop()), (plan, method)]
    )
    assert relative_error(found, expected) < (1e-8 if isinstance(method, Reversible) else 0.05)


def test_guidance_by_call_and_as_a_parameter() -> None:
    noise, cond = some_noise(), {"emb": some_emb(), "negative_emb": some_emb(1)}
    network = SmallNetwork()
    own = Sampler(Denoiser(network, VP, guidance_scale=4.0), _ddim())
    plain = Sampler(Denoiser(network, VP), _ddim())
    assert torch.equal(own(noise, **cond), plain(noise, guidance_scale=4.0, **cond))
    unguided = own(noise, guidance_scale=1.0, emb=cond["emb"])
    assert torch.equal(unguided, plain(noise, emb=cond["emb"]))
    by_time = plain(noise, guidance_scale=lambda t: 4.0, **cond)
    assert torch.equal(own(noise, **cond), by_time)
    learned = Denoiser(network, VP, guidance_scale=nn.Parameter(torch.tensor(4.0)))
    assert next(name for name, _ in learned.named_parameters()) == "guidance_scale"
    Sampler(learned, _ddim())(noise, **cond).sum().backward()
    one = torch.tensor(4.0, requires_grad=True)
    plain(noise, guidance_scale=one, **cond).sum().backward()
    torch.testing.assert_close(learned.guidance_scale.grad, one.grad)


@pytest.mark.parametrize("passes", ["batched", "sequential"])
def test_a_scale_for_each_sample_is_as_each_alone(passes: Any) -> None:
    scales, noise = torch.tensor([1.5, 4.0, 7.0]), some_noise(requires_grad=False)
    emb, negative = some_emb(), some_emb(1)
    denoiser = Denoiser(SmallNetwork(), VP, guidance_passes=passes, clip_sample=True)
    plan = _ddim()
    together = Sampler(denoiser, plan)(noise, guidance_scale=scales, emb=emb, negative_emb=negative)
    alone = [
        Sampler(denoiser, plan)(
            noise[i : i + 1], guidance_scale=float(scale), emb=emb[i : i + 1], negative_emb=negative
        )
        for i, scale in enumerate(scales)
    ]
    torch.testing.assert_close(together, torch.cat(alone))
    each = sample_each(
        denoiser, [plan] * 3, noise, guidance_scale=scales, emb=PerStep(emb.expand(STEPS, -1, -1)),
        negative_emb=negative,
    )  # fmt: skip
    torch.testing.assert_close(each, together)
    adaptive = find_steps(
        denoiser, noise, {"emb": emb, "negative_emb": negative, "guidance_scale": scales},
        solver="bs3", rtol=0.1, atol=0.1,
    )  # fmt: skip
    assert adaptive.num_calls > 3


def test_cost_counts_with_guidance_and_entries_by_step() -> None:
    scale, embs = torch.tensor(3.0, requires_grad=True), _embs()
    sampler = Sampler(Denoiser(SmallNetwork(), VP, guidance_scale=scale), _ddim())
    cost = sampler.cost(some_noise(), emb=PerStep(embs), negative_emb=some_emb(1))
    assert (cost.forward_calls, cost.products) == (STEPS, STEPS)


@pytest.mark.parametrize("method", [*EXACT[:5], Backprop()], ids=repr)
@pytest.mark.parametrize("source", ["generators", "counters"])
def test_seeds_by_sample(source: str, method: GradientMethod) -> None:
    """A sample does not depend on the batch that it is in, and its gradient is exact."""
    plan = Plan.from_scheduler(diffusers.DDPMScheduler(clip_sample=False), STEPS)
    noise, emb, seeds = some_noise(), some_emb(), [5, 6, 7]
    denoiser = Denoiser(SmallNetwork(), PROCESSES["scaled_linear"])
    sampler = Sampler(denoiser, plan, method)

    def generator(some: list[int]) -> Any:
        if source == "counters":
            return CounterNoise(some)
        return [torch.Generator().manual_seed(seed) for seed in some]

    def gradient(rows: slice, one: Sampler) -> list[Tensor]:
        sample = one(noise[rows], emb=emb[rows], generator=generator(seeds[rows]))
        targets = [noise, emb, *denoiser.network.used]
        return [sample, *torch.autograd.grad(objective(sample), targets)]

    whole = gradient(slice(None), sampler)
    for value, expected in zip(
        whole, gradient(slice(None), Sampler(denoiser, plan, Backprop())), strict=True
    ):
        assert relative_error(value, expected) < 1e-10
    alone = [gradient(slice(i, i + 1), sampler) for i in range(3)]
    torch.testing.assert_close(whole[0], torch.cat([a[0] for a in alone]))
    for i in range(1, len(whole)):
        torch.testing.assert_close(whole[i], sum(a[i] for a in alone))
