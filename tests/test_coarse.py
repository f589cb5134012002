"""The coarse adjoint: exact where nothing is left out, and close where most is."""

from __future__ import annotations

import functools
import json
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mixtures import PROCESSES, GaussianMixture
from networks import SmallNetwork, objective, relative_error, some_emb, some_noise
from observers import Notes
from torch import nn

from adjointdpm import (
    CoarseAdjoint,
    Denoiser,
    Exact,
    GradientMethod,
    Plan,
    Sampler,
    Schedule,
    solvers,
)
from adjointdpm.gradients import InaccurateGradientWarning
from adjointdpm.gradients.coarse import coarse_steps, nodes
from adjointdpm.gradients.interpolated import shares
from adjointdpm.prediction import PREDICTION_TYPES


@given(steps=st.integers(1, 60), count=st.integers(1, 80), density=st.floats(1, 4))
def test_blocks_are_there_and_shorten(steps: int, count: int, density: float) -> None:
    starts = coarse_steps(steps, count, density)
    assert starts[0] == 0
    assert len(starts) == min(steps, count)
    lengths = [end - start for start, end in pairwise([*starts, steps])]
    assert min(lengths) > 0
    # But for rounding.
    assert all(following <= length + 1 for length, following in pairwise(lengths))


@given(steps=st.integers(1, 60), count=st.integers(1, 80))
def test_blocks_are_as_equal_as_they_can_be(steps: int, count: int) -> None:
    starts = coarse_steps(steps, count)
    assert starts[0] == 0
    assert len(starts) == min(steps, count)
    lengths = [end - start for start, end in pairwise([*starts, steps])]
    assert min(lengths) > 0
    assert max(lengths) - min(lengths) <= 1


def _assert_exact(plan: Plan, schedule: Schedule, method: CoarseAdjoint) -> None:
    assert plan.prediction_type is not None
    network = SmallNetwork()
    denoiser = Denoiser(network, schedule, plan.prediction_type, guidance_scale=2.0)
    noise, emb, negative = some_noise(), some_emb(), some_emb()
    targets = [noise, emb, negative, *network.used]
    gradients = []
    for chosen in (method, Exact()):
        sample = Sampler(denoiser, plan, chosen)(noise, emb=emb, negative_emb=negative)
        gradients.append(torch.autograd.grad(objective(sample), targets))
    for gradient, reference in zip(*gradients, strict=True):
        assert relative_error(gradient, reference) < 1e-10


@pytest.mark.parametrize("process", ["vp", "flow", "edm"])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "deis2", "unipc_bh2_2"])
def test_a_plans_own_solver_with_every_step_is_the_exact_gradient(
    process: str, solver: str
) -> None:
    schedule = PROCESSES[process]
    plan = solvers.build(solver, schedule, 20, prediction_type="v_prediction")
    _assert_exact(plan, schedule, CoarseAdjoint(20, solver))


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_3m", "deis3", "unipc_bh2_3", "ab4", "heun"])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_with_every_product_it_is_the_exact_gradient(
    process: str, solver: str, prediction_type: str
) -> None:
    """In any number of calls a step, and with weights of any sign."""
    schedule = PROCESSES[process]
    try:
        plan = solvers.build(solver, schedule, 8, prediction_type=prediction_type)
    except (ValueError, ZeroDivisionError):
        pytest.skip("the process has no such plan")
    _assert_exact(plan, schedule, CoarseAdjoint(plan.num_calls))


@pytest.mark.parametrize("scheduler", ["PNDMScheduler", "UniPCMultistepScheduler"])
def test_with_every_product_of_a_scheduler_it_is_the_exact_gradient(scheduler: str) -> None:
    """PNDM starts with stages, and has a call that nothing reads."""
    chosen = getattr(diffusers, scheduler)()
    plan = Plan.from_scheduler(chosen, 12)
    _assert_exact(plan, Schedule.from_config(chosen.config), CoarseAdjoint(plan.num_calls))


SHARP = GaussianMixture(stds=torch.tensor([0.1, 0.2, 0.15], dtype=torch.float64))
"""Its directions have little variance, as those of pictures: the last steps decide all."""


def _mixture_gradients(
    plan: Plan,
    schedule: Schedule,
    method: GradientMethod,
    guidance_scale: float = 1.0,
    mixture: GaussianMixture | None = None,
    observer: Notes | None = None,
) -> tuple[torch.Tensor, ...]:
    mixture = mixture if mixture is not None else GaussianMixture()
    denoiser = Denoiser(
        mixture.network(schedule, "v_prediction"),
        schedule,
        "v_prediction",
        guidance_scale=guidance_scale,
        guidance_passes="sequential",
    )
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(8, mixture.dim, dtype=torch.float64, generator=generator)
    cond = {"means": mixture.means.clone().requires_grad_()}
    targets = [noise.requires_grad_(), cond["means"]]
    if guidance_scale > 1:
        cond["negative_means"] = 0.5 * mixture.means
    sample = Sampler(denoiser, plan, method, observer=observer)(noise, **cond)
    return torch.autograd.grad((sample**2).sum() + sample.sin().sum(), targets)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc_bh2_2", "ab2"])
@pytest.mark.parametrize("process", ["vp", "flow"])
def test_the_error_falls_with_the_square_of_the_distance_of_products(
    process: str, solver: str
) -> None:
    """To nothing, on samplers of every order, DDIM among them."""
    schedule = PROCESSES[process]
    plan = solvers.build(solver, schedule, 240, prediction_type="v_prediction")
    exact = _mixture_gradients(plan, schedule, Exact())
    errors = []
    for count in (15, 60):
        found = _mixture_gradients(plan, schedule, CoarseAdjoint(count))
        errors.append([relative_error(g, e) for g, e in zip(found, exact, strict=True)])
    coarse, fine = errors
    for most, least in zip(coarse, fine, strict=True):
        assert least < 3e-3
        assert most / least > 4**1.5


SAMPLERS = [("scaled_linear", "ddim"), ("scaled_linear", "dpmpp_2m"), ("flow", "ddim")]
FEW_STEPS = [
    (process, solver, steps, count)
    for process, solver in [
        ("scaled_linear", "ddim"),
        ("scaled_linear", "dpmpp_2m"),
        ("flow", "ddim"),
    ]
    for steps, counts in [(8, (3, 4, 6, 7)), (20, (5, 10, 15)), (50, (12, 25))]
    for count in counts
]


@functools.cache
def _exact(process: str, solver: str, steps: int, sharp: bool) -> tuple[torch.Tensor, ...]:
    plan = solvers.build(solver, PROCESSES[process], steps, prediction_type="v_prediction")
    mixture = SHARP if sharp else None
    return _mixture_gradients(plan, PROCESSES[process], Exact(), mixture=mixture)


@pytest.mark.parametrize(("process", "solver", "steps", "count"), FEW_STEPS)
def test_it_knows_its_error_at_few_steps(process: str, solver: str, steps: int, count: int) -> None:
    """The estimate is of the size of the error, and nothing explodes."""
    schedule = PROCESSES[process]
    plan = solvers.build(solver, schedule, steps, prediction_type="v_prediction")
    for mixture in (GaussianMixture(), SHARP):
        exact = _exact(process, solver, steps, mixture is SHARP)
        notes = Notes()
        method = CoarseAdjoint(count)
        found = _mixture_gradients(plan, schedule, method, mixture=mixture, observer=notes)
        error = max(relative_error(g, e) for g, e in zip(found, exact, strict=True))
        assert error < 3
        if count >= 0.75 * steps or (steps >= 20 and count >= 0.5 * steps):
            assert error < 0.06
        if notes.error_estimates:
            (estimate,) = notes.error_estimates
            assert error / 6 < estimate < 6 * error + 0.3


def test_it_warns_of_a_large_error_and_of_no_other() -> None:
    schedule = PROCESSES["scaled_linear"]
    plan = solvers.build("ddim", schedule, 20, prediction_type="v_prediction")
    with pytest.warns(
        InaccurateGradientWarning, match=r"5 products for 20 network calls.*Exact\(\)"
    ):
        _mixture_gradients(plan, schedule, CoarseAdjoint(5), mixture=SHARP)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _mixture_gradients(plan, schedule, CoarseAdjoint(10), mixture=SHARP)


@pytest.mark.parametrize("steps", [2, 3, 8])
def test_one_product_is_known_to_be_too_few(steps: int) -> None:
    schedule, notes = PROCESSES["vp"], Notes()
    plan = solvers.build("ddim", schedule, steps, prediction_type="v_prediction")
    _mixture_gradients(plan, schedule, CoarseAdjoint(1), mixture=SHARP, observer=notes)
    assert notes.error_estimates[0] > 0.2


def test_all_products_have_no_error_to_tell_of() -> None:
    schedule, notes = PROCESSES["vp"], Notes()
    plan = solvers.build("ddim", schedule, 8, prediction_type="v_prediction")
    _mixture_gradients(plan, schedule, CoarseAdjoint(8), observer=notes)
    assert notes.error_estimates == [0.0]


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "deis3", "ab2"])
def test_its_products_add_up_to_the_gradient_for_the_noise(solver: str) -> None:
    schedule = PROCESSES["vp"]
    plan = solvers.build(solver, schedule, 24)
    notes, noise = Notes(), some_noise()
    denoiser = Denoiser(SmallNetwork(), schedule)
    sample = Sampler(denoiser, plan, CoarseAdjoint(12), observer=notes)(noise, emb=some_emb())
    adjoint, found = torch.autograd.grad(objective(sample), [sample, noise])
    total = float(plan.sample[0]) * adjoint
    assert set(notes.products) == set(range(plan.num_calls))
    for k, product in notes.products.items():
        total += float(plan.inputs[k, 0]) * product
    assert relative_error(total, found) < 1e-12


@pytest.mark.parametrize("count", [1, 3, 7])
def test_other_gradients_do_not_depend_on_that_for_the_noise(count: int) -> None:
    network, plan = SmallNetwork(), solvers.build("ddim", PROCESSES["vp"], 12)
    sampler = Sampler(Denoiser(network, PROCESSES["vp"]), plan, CoarseAdjoint(count))
    emb, noise = some_emb(), some_noise()
    both = torch.autograd.grad(objective(sampler(noise, emb=emb)), [noise, emb])
    (alone,) = torch.autograd.grad(objective(sampler(noise.detach(), emb=emb)), emb)
    assert torch.equal(both[1], alone)


@given(
    weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=30),
    count=st.integers(1, 30),
    num_alone=st.integers(0, 5),
)
def test_the_weights_are_shared_out(weights: list[float], count: int, num_alone: int) -> None:
    alone = list(range(len(weights)))[:num_alone]
    others = range(len(alone), len(weights))
    chosen = [others[i] for i in nodes(len(others), count, 1.5)]
    assert len(chosen) == min(count, len(others))
    assert not chosen or chosen[-1] == len(weights) - 1
    found = shares(weights, chosen, alone)
    assert set(found) == {*chosen, *alone}
    assert sum(found.values()) == pytest.approx(
        sum(weights) if chosen else sum(weights[:num_alone])
    )


def test_where_most_calls_are_stages_another_plan_is_transposed() -> None:
    plan = solvers.build("heun", PROCESSES["vp"], 20)
    coarse = CoarseAdjoint(5).swept_plan(plan, PROCESSES["vp"])
    assert coarse.num_calls == 5
    assert CoarseAdjoint(40).swept_plan(plan, PROCESSES["vp"]) is plan


@pytest.mark.parametrize(
    ("scheduler", "solver", "limit"),
    [
        ("DDIMScheduler", None, 0.025),
        ("DPMSolverMultistepScheduler", None, 0.025),
        # DDIM's own gradient is off that of the ODE by this much in size, the coarse one less.
        ("DDIMScheduler", "unipc_bh2_2", 0.15),
        ("DPMSolverMultistepScheduler", "unipc_bh2_2", 0.05),
    ],
)
def test_a_quarter_of_the_products_gives_the_direction(
    scheduler: str, solver: str | None, limit: float
) -> None:
    """On schedulers of diffusers, with guidance."""
    settings = {"prediction_type": "v_prediction"}
    if scheduler == "DDIMScheduler":
        settings["clip_sample"] = False
    chosen = getattr(diffusers, scheduler)(**settings)
    schedule = Schedule.from_config(chosen.config)
    plan = Plan.from_scheduler(chosen, 48)
    exact = _mixture_gradients(plan, schedule, Exact(), guidance_scale=2.0)
    found = _mixture_gradients(plan, schedule, CoarseAdjoint(12, solver), guidance_scale=2.0)
    for gradient, reference in zip(found, exact, strict=True):
        cosine = torch.cosine_similarity(gradient.flatten(), reference.flatten(), dim=0)
        assert cosine > 0.999
        assert relative_error(gradient, reference) < limit


@pytest.mark.parametrize("num_steps", [4, 12])
def test_weights_and_conditioning_agree(num_steps: int) -> None:
    """A shift of the output is the same as one that is passed in: one gradient in two places."""

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(4, dtype=torch.float64))

        def forward(self, x: torch.Tensor, t: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
            return (x + self.shift + shift).sin()

    network, plan = Shifted(), solvers.build("dpmpp_2m", PROCESSES["vp"], 24)
    sampler = Sampler(Denoiser(network, PROCESSES["vp"]), plan, CoarseAdjoint(num_steps))
    shift = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    sample = sampler(torch.randn(3, 4, dtype=torch.float64), shift=shift)
    one, other = torch.autograd.grad((sample**3).sum(), [network.shift, shift])
    torch.testing.assert_close(one, other)


def test_its_plan_can_be_looked_at() -> None:
    plan = solvers.build("ddim", PROCESSES["vp"], 20)
    coarse = CoarseAdjoint(5, "unipc_bh2_2").swept_plan(plan, PROCESSES["vp"])
    assert coarse.num_calls == 5
    assert set(coarse.timesteps) <= set(plan.timesteps)
    assert coarse.timesteps[0] == plan.timesteps[0]


def test_it_runs_the_network_again_once_a_block() -> None:
    calls = 0

    class Counting(SmallNetwork):
        def forward(self, *args: Any, **cond: Any) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return super().forward(*args, **cond)

    plan = solvers.build("ddim", PROCESSES["vp"], 20)
    sampler = Sampler(Denoiser(Counting(), PROCESSES["vp"]), plan, CoarseAdjoint(5))
    emb = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    sampler(torch.randn(3, 4, dtype=torch.float64), emb=emb).sum().backward()
    assert calls == 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "at least 1"),
        ({"num_steps": 1, "solver": "nothing"}, "not known"),
        ({"num_steps": 1, "density": 0.5}, "density must be at least 1"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoarseAdjoint(**arguments)


def test_solvers_with_stages_are_refused() -> None:
    plan = solvers.build("ddim", PROCESSES["vp"], 8)
    sampler = Sampler(Denoiser(SmallNetwork(), PROCESSES["vp"]), plan, CoarseAdjoint(4, "heun"))
    with pytest.raises(ValueError, match="one network call a step"):
        sampler(torch.randn(3, 4), emb=torch.randn(3, 3))


def test_the_study_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """benchmarks/coarse.py on a Gaussian mixture, in small."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # of all tests after it
    import coarse

    sizes = ["--num_inference_steps", "8", "--num_steps", "2", "8", "--seeds", "1"]
    coarse.main(["--toy", *sizes, "--output_dir", str(tmp_path)])
    rows = json.loads((tmp_path / "coarse.json").read_text())["rows"]
    own = [
        row["relative_error"]
        for row in rows
        if (row["scheduler"], row["rule"], row["reverse_calls"])
        == ("DDIM", "ddim, equal blocks", 8)
    ]
    assert len(own) == 3
    assert max(own) < 1e-3
    assert (tmp_path / "coarse.png").stat().st_size > 0


def test_a_sampler_whose_products_are_not_interpolated_is_told_so() -> None:
    plan = solvers.build("heun", PROCESSES["vp"], 8)
    sampler = Sampler(Denoiser(SmallNetwork(), PROCESSES["vp"]), plan, CoarseAdjoint(4))
    with pytest.warns(InaccurateGradientWarning, match="too few calls of heun"):
        sampler(some_noise(), emb=some_emb())
