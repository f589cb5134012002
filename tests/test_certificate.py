"""The certificate: it passes what is right, and finds out what is wrong."""

from __future__ import annotations

import json
from typing import Any

import diffusers
import pytest
import torch
from mixtures import PROCESSES
from networks import SmallNetwork
from torch import nn

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
    certify,
    solvers,
)
from adjointdpm.gradients.exact import ExactSweep


class _Cubed(nn.Module):
    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        return (sample**3).sum(1)


def _sampler(method: object, solver: str = "dpmpp_2m", steps: int = 8) -> Sampler:
    plan = solvers.build(solver, PROCESSES["vp"], steps)
    return Sampler(Denoiser(SmallNetwork(dtype=torch.float32), PROCESSES["vp"]), plan, method)


def test_the_exact_gradient_is_certified_for_every_target() -> None:
    emb = torch.randn(3, 3, requires_grad=True)
    certificate = certify(_sampler(Exact()), torch.randn(3, 4), _Cubed(), emb=emb)
    assert [target.name for target in certificate.targets] == ["noise", "emb", "weights"]
    for target in certificate.targets:
        assert target.relative_error < 1e-12
        assert target.cosine == pytest.approx(1)
        assert 0 < target.difference_error < 1e-5
    assert (certificate.forward_calls, certificate.backward_calls) == (8, 8)
    assert certificate.passed
    assert certificate.verdict.startswith("exact: ")
    assert certificate.reference == repr(Backprop())


def test_approximations_show_their_error() -> None:
    emb = torch.randn(3, 3, requires_grad=True)
    noise = torch.randn(3, 4)
    for method in (ContinuousAdjoint(), Truncated(1)):
        certificate = certify(_sampler(method), noise, _Cubed(), emb=emb)
        assert max(target.relative_error for target in certificate.targets) > 1e-3
        assert max(target.difference_error for target in certificate.targets) > 1e-3
    assert not certificate.passed
    assert certificate.verdict.startswith("poor: the gradient for ")
    assert all(target.word(1e9) == "good" for target in certificate.targets)


def test_a_wrong_gradient_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither autograd nor measured derivatives share anything with Exact: both see an error."""
    pull_back = ExactSweep.pull_back

    def wrong(self: ExactSweep, k: int, adjoint: torch.Tensor, **rest: bool) -> object:
        return pull_back(self, k, adjoint * (1.01 if k == 3 else 1.0), **rest)

    monkeypatch.setattr(ExactSweep, "pull_back", wrong)
    certificate = certify(_sampler(Exact()), torch.randn(3, 4), _Cubed(), emb=torch.randn(3, 3))
    assert certificate.targets[0].difference_error > 1e-4
    assert certificate.targets[0].relative_error > 1e-4


def test_stochastic_samplers_are_judged_along_one_path() -> None:
    scheduler = diffusers.EulerAncestralDiscreteScheduler()
    denoiser = Denoiser(SmallNetwork(), Schedule.from_config(scheduler.config))
    sampler = Sampler(denoiser, Plan.from_scheduler(scheduler, 6))
    noise = torch.randn(2, 4, dtype=torch.float64)
    certificate = certify(sampler, noise, _Cubed(), emb=torch.randn(2, 3).double())
    assert all(target.difference_error < 1e-5 for target in certificate.targets)


def test_nothing_of_the_sampler_is_changed() -> None:
    sampler = _sampler(Exact())
    weights = {name: p.clone() for name, p in sampler.named_parameters()}
    method = sampler.gradient
    certify(sampler, torch.randn(3, 4), torch.sum, emb=torch.randn(3, 3))
    assert sampler.gradient is method
    for name, parameter in sampler.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, weights[name])
        assert parameter.grad is None


def test_it_can_be_read_by_people_and_programs() -> None:
    certificate = certify(_sampler(Exact()), torch.randn(3, 4), _Cubed(), emb=torch.randn(3, 3))
    table = str(certificate)
    assert "noise" in table
    assert "8 forward, 8 in the reverse sweep" in table
    assert f"peak memory: {certificate.peak_memory / 2**20:.1f} MiB" in table
    assert "verdict: exact" in table
    assert "error, cosine: against the gradient by plain autograd" in table
    data = json.loads(certificate.to_json())
    assert data["passed"]
    assert data["words"] == {"noise": "exact", "weights": "exact"}
    assert data["method"] == repr(Exact())
    assert data["targets"][0]["cosine"] == certificate.targets[0].cosine


def test_forward_mode_agrees_with_differences() -> None:
    emb = torch.randn(3, 3, requires_grad=True)
    noise = torch.randn(3, 4)
    sampler = _sampler(Exact())
    central = certify(sampler, noise, _Cubed(), derivatives="central", emb=emb)
    forward = certify(sampler, noise, _Cubed(), emb=emb, derivatives="forward")
    assert "forward" in str(forward)
    for one, other in zip(central.targets, forward.targets, strict=True):
        assert one.measured == pytest.approx(other.measured, rel=1e-6)
        assert 0 < one.uncertainty < 1e-5
        assert other.uncertainty == 0
        assert one.computed == other.computed
        assert other.difference_error < 1e-12
    with pytest.raises(ValueError, match="central or forward"):
        certify(sampler, noise, _Cubed(), emb=emb, derivatives="sideways")  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m"])
def test_exact_methods_have_no_error_at_any_step(solver: str) -> None:
    methods = [Backprop(), Exact(), Exact(memory_budget="1GiB"), Exact(max_latents=3)]
    for method in [*methods, *([Symplectic()] if solver == "heun" else [])]:
        certificate = certify(
            _sampler(method, solver),
            torch.randn(3, 4),
            _Cubed(),
            num_directions=1,
            by_step=True,
            emb=torch.ones(3, 3),
        )
        assert len(certificate.by_step) == 8
        assert max(step.error for step in certificate.by_step) < 1e-12


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_the_last_step_has_the_error_of_the_noise(solver: str) -> None:
    for method in (ContinuousAdjoint(num_steps=5), CoarseAdjoint(4), Reversible()):
        certificate = certify(
            _sampler(method, solver, 12),
            torch.randn(3, 4),
            _Cubed(),
            num_directions=1,
            by_step=True,
            emb=torch.ones(3, 3),
        )
        noise = certificate.targets[0].relative_error
        assert certificate.by_step[-1].error == pytest.approx(noise, rel=1e-3, abs=1e-9)
        total = sum(step.increment for step in certificate.by_step)
        assert total == pytest.approx(certificate.by_step[-1].error, abs=1e-12)


def test_calls_that_nothing_reads_have_no_place() -> None:
    """PNDM's start has one."""
    scheduler = diffusers.PNDMScheduler()
    schedule, plan = Schedule.from_config(scheduler.config), Plan.from_scheduler(scheduler, 12)
    sampler = Sampler(Denoiser(SmallNetwork(), schedule), plan, ContinuousAdjoint("euler"))
    noise, emb = torch.randn(3, 4), torch.ones(3, 3)
    certificate = certify(sampler, noise, _Cubed(), num_directions=1, by_step=True, emb=emb)
    error = certificate.targets[0].relative_error
    assert certificate.by_step[-1].error == pytest.approx(error, rel=1e-3)


def test_a_fault_is_found_where_it_is() -> None:
    """A coarse adjoint of a network that jumps in its slope at one time."""

    class Jumps(nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return torch.where(((t > 0.4) & (t < 0.6))[:, None], (3 * x).sin(), 0.2 * x)

    schedule = PROCESSES["flow"]
    plan = solvers.build("euler", schedule, 40, prediction_type="flow_prediction")
    sampler = Sampler(Denoiser(Jumps(), schedule, "flow_prediction"), plan, CoarseAdjoint(20))
    noise = torch.randn(8, 3, dtype=torch.float64)
    steps = certify(sampler, noise, _Cubed(), num_directions=1, by_step=True).by_step
    worst = max(steps, key=lambda step: step.increment)
    assert 0.3 < worst.timestep < 0.7
    assert all(step.error < 0.1 * worst.error for step in steps if step.timestep < 0.3)
    assert "####" in str(certify(sampler, noise, _Cubed(), num_directions=1, by_step=True))


def test_a_truncated_sweep_is_exact_until_it_ends() -> None:
    certificate = certify(
        _sampler(Truncated(4)),
        torch.randn(3, 4),
        _Cubed(),
        num_directions=1,
        by_step=True,
        emb=torch.ones(3, 3),
    )
    assert 0 < len(certificate.by_step) < 8
    assert max(step.error for step in certificate.by_step) < 1e-12
    assert certificate.targets[0].relative_error == 1


def test_states_that_are_solved_again_are_compared() -> None:
    method = ContinuousAdjoint("rk4", trajectory="resolved")
    certificate = certify(
        _sampler(method, "rk4", 20),
        torch.randn(3, 4),
        _Cubed(),
        num_directions=1,
        by_step=True,
        emb=torch.ones(3, 3),
    )
    errors = [step.state_error for step in certificate.by_step]
    assert errors[-1] == pytest.approx(certificate.reconstruction_error)
    assert 0 < certificate.reconstruction_error < 0.1
    assert "misses the start of the run by" in str(certificate)


def test_reversible_is_judged_as_the_sampler_that_it_is() -> None:
    certificate = certify(_sampler(Reversible()), torch.randn(3, 4), _Cubed(), emb=torch.ones(3, 3))
    (target, weights) = certificate.targets
    assert target.relative_error < 1e-9
    assert weights.difference_error < 1e-5
    assert 0 <= certificate.reconstruction_error < 1e-9


def test_what_has_no_steps_is_refused() -> None:
    emb = torch.ones(3, 3)
    scheduler = diffusers.EulerAncestralDiscreteScheduler()
    denoiser = Denoiser(SmallNetwork(), Schedule.from_config(scheduler.config))
    sampler = Sampler(denoiser, Plan.from_scheduler(scheduler, 3))
    with pytest.raises(ValueError, match="deterministic"):
        certify(sampler, torch.randn(3, 4), _Cubed(), by_step=True, emb=emb)


def test_peak_memory_tells_methods_apart() -> None:
    # Latents of more numbers than a fingerprint, as any real ones are.
    noise, emb = torch.randn(48, 4), torch.ones(48, 3)
    peaks = [
        certify(_sampler(method, "ddim", 40), noise, _Cubed(), num_directions=1, emb=emb)
        for method in (Backprop(), Exact(), Reversible())
    ]
    assert peaks[0].peak_memory > 2 * peaks[1].peak_memory > 2 * peaks[2].peak_memory


def test_hooks_on_weights_are_part_of_the_gradient() -> None:
    """Autograd on the copy runs them too, so that what they do cannot hide."""
    sampler = _sampler(Backprop())
    noise, emb = torch.randn(3, 4), torch.ones(3, 3)
    plain = certify(sampler, noise, _Cubed(), emb=emb)
    for parameter in sampler.parameters():
        parameter.register_hook(lambda gradient: 2 * gradient)
    hooked = certify(sampler, noise, _Cubed(), emb=emb)
    before, after = plain.targets[-1], hooked.targets[-1]
    assert after.name == "weights"
    assert after.norm == pytest.approx(2 * before.norm, rel=1e-9)
    assert after.relative_error < 1e-12
    assert after.difference_error == pytest.approx(1.0)
    assert after.word(0.1) == "disputed"
    assert not hooked.passed
    assert "hooks on weights" in hooked.verdict


def test_a_method_that_lets_hooks_run_once_a_call_is_found_out() -> None:
    """As it was with products taken on the weights themselves."""

    class OncePerCall(Backprop):
        def sample(self, run: Any) -> torch.Tensor:
            sample = super().sample(run)
            for parameter in run.denoiser.parameters():
                for hook in list((parameter._backward_hooks or {}).values()):
                    parameter.register_hook(hook)
            return sample

    sampler = _sampler(OncePerCall())
    next(sampler.parameters()).register_hook(lambda gradient: 2 * gradient)
    certificate = certify(sampler, torch.randn(3, 4), _Cubed(), emb=torch.ones(3, 3))
    assert certificate.targets[-1].relative_error > 0.1


def test_kinks_and_float32_are_told_from_errors() -> None:
    """Differences that do not know better say so, and the gradient is not blamed."""

    class Kinked(nn.Module):
        def forward(self, sample: torch.Tensor) -> torch.Tensor:
            return (sample.float() * 7).sin().double().abs().sum()

    sampler = _sampler(Exact())
    noise, emb = torch.randn(3, 4), torch.ones(3, 3)
    certificate = certify(sampler, noise, Kinked(), derivatives="central", emb=emb)
    assert max(target.uncertainty for target in certificate.targets) > 1e-6
    assert "let them know no more" in str(certificate)
    assert certificate.passed


def test_operators_without_forward_mode_are_measured_by_differences() -> None:
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx: Any, adjoint: torch.Tensor) -> torch.Tensor:
            return adjoint * ctx.saved_tensors[0].cos()

    plan = solvers.build("ddim", PROCESSES["vp"], 5)
    sampler = Sampler(Denoiser(lambda x, t: Own.apply(x), PROCESSES["vp"]), plan)
    noise = torch.randn(2, 3, dtype=torch.float64)
    certificate = certify(sampler, noise, _Cubed())
    assert certificate.derivatives == "central"
    assert certificate.passed
    with pytest.raises((NotImplementedError, RuntimeError), match=r"forward|jvp"):
        certify(sampler, noise, _Cubed(), derivatives="forward")


def test_the_reference_may_run_calls_again() -> None:
    noise, emb = torch.randn(3, 4), torch.ones(3, 3)
    sampler = _sampler(Exact())
    kept = certify(sampler, noise, _Cubed(), emb=emb)
    again = certify(sampler, noise, _Cubed(), checkpoint=True, emb=emb)
    assert again.reference == "Backprop(checkpoint=True)"
    for one, other in zip(kept.targets, again.targets, strict=True):
        assert one.computed == other.computed
        assert other.relative_error < 1e-12


def test_numbers_that_measure_nothing_are_refused() -> None:
    for wrong in ({"num_directions": 0}, {"step": 0.0}, {"max_error": 0.0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}.*(at least 1|positive)"):
            certify(_sampler(Exact()), torch.randn(3, 4), _Cubed(), **wrong)


def test_a_gradient_that_is_zero_is_no_error() -> None:
    """Nothing is divided by zero where a target does not matter."""

    class Unmoved(nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
            return x.sin() + 0 * emb.sum()

    plan = solvers.build("ddim", PROCESSES["vp"], 4)
    sampler = Sampler(Denoiser(Unmoved(), PROCESSES["vp"]), plan)
    emb = torch.zeros(3, 3, requires_grad=True)
    certificate = certify(sampler, torch.randn(3, 4), _Cubed(), emb=emb)
    assert [target.name for target in certificate.targets] == ["noise", "emb"]
    assert certificate.targets[1].norm == certificate.targets[1].relative_error == 0
    assert certificate.passed
    assert "zero" not in certificate.verdict
    nothing = certify(sampler, torch.randn(3, 4), lambda x: 0 * x.sum(1), emb=emb)
    assert nothing.verdict.startswith("exact, and zero")
    cut = Sampler(sampler.denoiser, plan, Truncated(2))
    missed = certify(cut, torch.randn(3, 4), _Cubed(), max_error=2.0, emb=emb)
    assert missed.targets[0].norm == 0
    assert missed.verdict.startswith("good: the gradient is off by at most 1 ")


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda x: x, "not shape"),
        (lambda x: 1.0, "not 1.0"),
        (lambda x: x.detach().sum(), "has no gradient"),
    ],
)
def test_objectives_without_a_gradient_or_with_too_many_numbers_are_refused(
    objective: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        certify(_sampler(Exact()), torch.randn(3, 4), objective, emb=torch.randn(3, 3))


def test_progress_is_told_in_words() -> None:
    said: list[str] = []
    certify(
        _sampler(Exact()), torch.randn(3, 4), _Cubed(), progress=said.append, emb=torch.ones(3, 3)
    )
    assert said[0] == "the gradient by plain autograd"
    assert said[1] == f"the gradient by {Exact()!r}"
    assert sum("derivatives along" in what for what in said) == 2
