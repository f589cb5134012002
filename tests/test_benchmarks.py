"""The benchmarks run, and what they say of themselves is so."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_pipeline import write_assets

from adjointdpm.assets import ASSETS_VARIABLE

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
EXACT_METHODS = ("Exact", "Exact, sqrt(N) latents", "Symplectic", "Reversible")
EXACT_PEERS = (
    "by hand, torch checkpoint",
    "torchdiffeq odeint",
    "torchode AutoDiffAdjoint",
    "diffrax RecursiveCheckpointAdjoint",
)
ADJOINT_PEERS = (
    "torchdiffeq odeint_adjoint",
    "torchode BacksolveAdjoint",
    "torchode JointBacksolveAdjoint",
    "diffrax BacksolveAdjoint",
)


@pytest.fixture(scope="module", autouse=True)
def benchmarks_on_the_path() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small model of random weights, to stand in for the embedded one."""
    return str(write_assets(tmp_path_factory.mktemp("tiny") / "assets"))


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    import gradients

    gradients.main(["--toy", "--device", "cpu", "--output_dir", str(folder), *arguments])
    return json.loads((folder / "gradients.json").read_text())


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The errors of all methods on the mixture."""
    folder = tmp_path_factory.mktemp("errors")
    results = run(folder, "--only", "errors", "--contests", "mixture/euler")
    return {name: row["float64"] for name, row in results["errors"]["mixture/euler"].items()}


def test_exact_methods_and_peers_give_the_same_gradient(errors: dict[str, Any]) -> None:
    present = [name for name in (*EXACT_METHODS, *EXACT_PEERS) if name in errors]
    assert set(EXACT_METHODS) <= set(present)
    for name in present:
        for target in errors[name].values():
            assert target["relative_error"] < 1e-9, name
            assert target["cosine"] > 1 - 1e-9, name


def test_every_library_solves_the_same_adjoint_ode(errors: dict[str, Any]) -> None:
    """Ours, and those of three libraries, miss the discrete gradient by the same amount."""
    ours = errors["ContinuousAdjoint, as in the paper"]
    assert ours["noise"]["relative_error"] > 1e-3
    for name in (name for name in ADJOINT_PEERS if name in errors):
        for target, of_ours in ours.items():
            assert errors[name][target] == pytest.approx(of_ours, rel=1e-6), name


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> tuple[Path, dict[str, Any]]:
    """All phases of two methods on the model that is embedded."""
    folder = tmp_path_factory.mktemp("embedded")
    names = ("Exact", "by hand")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ASSETS_VARIABLE, tiny)
        return folder, run(
            folder, "--contests", "embedded/euler", "--calls", "2", "--methods", *names
        )


def test_all_phases_on_the_embedded_model(embedded: tuple[Path, dict[str, Any]]) -> None:
    folder, results = embedded
    for row in results["errors"]["embedded/euler"].values():
        assert set(row["float64"]) == {"noise", "encoder_hidden_states", "weights"}
        assert max(target["relative_error"] for target in row["float64"].values()) < 1e-9
        assert max(target["relative_error"] for target in row["float32"].values()) < 1e-3
    assert results["time"]["embedded/euler"]["network calls"]["ratio"] == 1.0
    peaks = results["memory"]["embedded/euler"]
    assert peaks["by hand"]["4"] > 1.5 * peaks["by hand"]["2"]
    assert peaks["Exact"]["4"] < 1.1 * peaks["Exact"]["2"]
    table = (folder / "gradients_table.md").read_text()
    assert "| embedded/euler | time: Exact / network calls |" in table
    for phase in ("errors", "memory", "time"):
        assert (folder / f"gradients_{phase}.png").stat().st_size > 10_000


def test_a_phase_leaves_the_others_as_they_were(embedded: tuple[Path, dict[str, Any]]) -> None:
    folder, before = embedded
    contest, method = "mixture/heun", "Symplectic"
    after = run(folder, "--only", "time", "--contests", contest, "--methods", method)
    assert after["errors"] == before["errors"]
    assert after["memory"] == before["memory"]
    assert after["time"]["embedded/euler"] == before["time"]["embedded/euler"]
    assert set(after["time"][contest]) == {method, "network calls"}


def results_with(peer: str, ours: str, **columns: tuple[float, float]) -> dict[str, Any]:
    """Return results in which a peer and ours have these numbers."""
    contest = "mixture/euler"
    return {
        "settings": {},
        "time": {
            contest: {
                name: {"ratio": columns["time"][i], "seconds": 1.0}
                for i, name in enumerate((peer, ours))
            }
        },
        "memory": {
            contest: {name: {"10": columns["peak"][i]} for i, name in enumerate((peer, ours))}
        },
    }


def test_where_a_peer_is_better_the_table_says_so_and_why() -> None:
    from gradients_report import markdown

    names = ("by hand, torch checkpoint", "Exact")
    even = markdown(results_with(*names, time=(1.0, 1.01), peak=(2**20, 2**20)))
    assert "Nowhere." in even
    table = markdown(results_with(*names, time=(0.9, 1.01), peak=(2**20, 2**20)))
    assert "| **0.90** [1] |" in table
    where = "mixture/euler, by hand, torch checkpoint: time 0.90 against 1.01 of Exact"
    assert re.search(rf"^1\. What surrounds a call.*\n   - {where}", table, re.MULTILINE)


def test_each_peer_is_measured_against_one_of_ours() -> None:
    from contestants import OURS, PEERS

    assert {peer.rival for peer in PEERS} <= {method.name for method in OURS}


def test_the_description_of_the_machine_names_no_place(
    embedded: tuple[Path, dict[str, Any]],
) -> None:
    import platform

    text = (embedded[0] / "gradients.json").read_text()
    assert str(Path.home()) not in text
    assert not platform.node() or platform.node() not in text
    assert sys.prefix not in text


def test_real_sizes_at_toy_size(tmp_path: Path) -> None:
    import gpu

    arguments = ["--models", "toy", "--steps", "1", "4", "--device", "cpu"]
    gpu.main([*arguments, "--memory_budget", "1GiB", "--output_dir", str(tmp_path)])
    rows = json.loads((tmp_path / "gpu.json").read_text())["workloads"]["toy 64²"]
    peaks = {(row["method"], row["steps"]): row["peak_bytes"] for row in rows}
    assert peaks["exact", 4] < 1.1 * peaks["exact", 1]
    assert peaks["exact", 4] <= 1.02 * peaks["checkpoint", 4]
    assert peaks["backprop", 4] > 2 * peaks["exact", 4]
    assert peaks["exact_budget", 4] > 2 * peaks["exact", 4]
    assert (tmp_path / "gpu.png").stat().st_size > 10_000


def test_what_would_not_end_in_time_is_left_out_and_said(tmp_path: Path) -> None:
    import gpu

    arguments = ["--models", "toy", "--steps", "2", "--device", "cpu", "--budget_seconds", "0"]
    gpu.main([*arguments, "--output_dir", str(tmp_path)])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["workloads"] == {"toy 64²": []}
    assert [left[2] for left in found["left_out"]] == list(gpu.METHODS)


def test_steps_have_no_gradient_and_their_stand_ins_do(tmp_path: Path) -> None:
    import non_smooth

    non_smooth.main(["--toy", "--output_dir", str(tmp_path)])
    rows = json.loads((tmp_path / "non_smooth_0.json").read_text())["rows"]
    assert len(rows) == 4
    for row in rows:
        assert row["exact"] == {"after": row["before"], "first_gradient": 0.0}
        for way in ("without the step", "straight_through", "smooth"):
            assert row[way]["first_gradient"] > 0, (row["metric"], way)


def test_words_are_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: str
) -> None:
    import embed

    monkeypatch.setenv(ASSETS_VARIABLE, tiny)
    monkeypatch.setattr(embed, "STEPS", 2)
    output = tmp_path / "embed.json"
    toy = ["--output", str(output), "--methods", "exact", "--concepts", "cactus", "--budget", "0.1"]
    toy += ["--pictures", "3", "--set", "num_candidates=4", "num_inference_steps=2"]
    toy += ["inversion_steps=2", "inversion_batch_size=2"]
    embed.main(toy)
    [row] = json.loads(output.read_text())["rows"]
    assert (row["method"], row["concept"], row["style"]) == ("exact", "cactus", "noto")
    assert len(row["losses"]) == row["updates"] >= 1
    assert row["before"]["trials"] == row["after"]["trials"] == 3
    assert "| cactus | noto |" in output.with_suffix(".md").read_text()
    written = output.read_bytes()
    embed.main(toy)
    assert output.read_bytes() == written


def test_styles_that_are_there_are_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stylize
    from PIL import Image

    pytest.importorskip("peft")
    monkeypatch.setattr(stylize, "STEPS", 2)
    Image.new("RGB", (40, 40), "brown").save(tmp_path / "brown.png")
    arguments = ["--style_images", str(tmp_path / "brown.png"), "--output_dir", str(tmp_path)]
    arguments += ["--count", "6", "--max_train_steps", "1", "--only", "sampler", "gradients"]
    arguments += ["--weights", "1"]
    monkeypatch.setattr(stylize, "TIMED", 1)
    monkeypatch.setattr(stylize, "GRADIENTS", {"by": stylize.Truncated(1)})
    stylize.main(arguments)
    first = (tmp_path / "results.json").read_text()
    row = json.loads(first)["rows"]["brown/sampler/1/1"]
    assert len(row["losses"]) == 1
    style = row["classifier"]
    assert style["after"] != style["before"]
    assert style["reduction"] == pytest.approx(1 - style["after"] / style["before"])
    assert len(json.loads(first)["rows"]["brown/by/1/1"]["losses"]) >= 1
    stylize.main(arguments)
    assert (tmp_path / "results.json").read_text() == first
    assert Image.open(tmp_path / "curve.png").height == 2 * 64 + 2


def test_the_picture_of_the_start_page_is_drawn(tmp_path: Path) -> None:
    import overview
    from PIL import Image

    overview.main(["--toy", "--output_dir", str(tmp_path)])
    rows = json.loads((tmp_path / "benchmarks" / "overview.json").read_text())["rows"]
    assert rows[-1]["probability"] > rows[0]["probability"]
    assert Image.open(tmp_path / "overview.png").width > 1000


def test_the_gradient_of_the_ode_nears_that_of_the_sampler() -> None:
    import continuous

    problem = continuous.toy(0)
    chosen = {"scheduler": "DDIM", "setting": "default"}
    rows = [
        continuous.measure(problem, key, method)
        for key, method in continuous.settings()
        if chosen.items() <= key.items() and key["num_inference_steps"] < 100
    ]
    errors = [row["errors"]["noise"]["relative_error"] for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 3
    assert all(row["reverse_calls"] == 2 * row["num_inference_steps"] - 1 for row in rows)


def test_written_pages_are_those_of_their_files() -> None:
    import embed
    from gradients_report import markdown

    results = BENCHMARKS.parent / "docs" / "benchmarks"
    for name, page, write in (
        ("gradients.json", "gradients_table.md", markdown),
        ("embed.json", "embed.md", embed.table),
    ):
        assert write(json.loads((results / name).read_text())) == (results / page).read_text()


@pytest.mark.parametrize(("process", "form"), [("EDM", "noise"), ("rectified flow", "flow")])
@pytest.mark.parametrize("solver", ["euler", "heun", "ab2"])
def test_the_plain_ode_is_a_form_where_it_has_no_linear_term(
    solver: str, process: str, form: str
) -> None:
    import odes

    schedule, (spacing, _) = odes.PROCESSES[process]
    plain, other = (
        odes.plan_of(solver, f, schedule, spacing, "v_prediction", 6) for f in ("x", form)
    )
    np.testing.assert_allclose(plain.table, other.table, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("budget", [4, 5, 11, 20])
@pytest.mark.parametrize("solver", ["heun", "dopri5", "ab4", "am3"])
def test_no_plan_takes_more_calls_than_it_may_and_none_could_take_one_step_more(
    solver: str, budget: int
) -> None:
    import odes

    schedule, (spacing, _) = odes.PROCESSES["VP linear"]
    make = partial(odes.plan_of, solver, "flow", schedule, spacing, "v_prediction")
    counts = [make(steps).num_calls for steps in range(1, budget + 2)]
    allowed = [calls for calls in counts if calls <= budget]
    plan = odes.largest_plan(make, budget)
    assert (plan.num_calls if plan else None) == (max(allowed) if allowed else None)


def test_rows_are_measured_once_and_with_one_reference(tmp_path: Path) -> None:
    import exponential

    schedule, spacings = exponential.PROCESSES["rectified flow"]
    problem = replace(
        exponential.on_mixture(exponential.MIXTURES["smooth mixture"], schedule, spacings),
        reference=exponential.Reference("rk4", "flow", "linspace", 20),
    )
    key = {"process": "rectified flow", "network": "smooth mixture"}
    samplers = (("euler", "x"), ("ab2", "noise"), ("deis3", ""))
    path = tmp_path / "exponential.json"

    def renewed(problem: Any, calls: list[int]) -> Any:
        results = exponential.Results.read(path)
        exponential.renew(results, key, problem, samplers, calls, resume=True)
        return exponential.Results.read(path)

    first = renewed(problem, [4])
    assert len(first.references) == 1
    assert {row["solver"] for row in first.rows} == {"euler", "deis3"}, "noise is infinite here"
    assert all(row["calls"] <= row["budget"] for row in first.rows)
    # Errors that are no longer measured show that rows were kept.
    first.rows[0]["sample_error"] = -1.0
    first.write()
    second = renewed(problem, [4, 5])
    assert second.rows[: len(first.rows)] == first.rows
    assert {row["budget"] for row in second.rows[len(first.rows) :]} == {5}
    other = replace(problem, reference=exponential.Reference("rk4", "flow", "linspace", 10))
    third = renewed(other, [4])
    assert len(third.references) == 1
    assert len(third.rows) == len(first.rows)
    assert all(row["sample_error"] >= 0 for row in third.rows)


def test_gains_are_those_of_a_sampling_run() -> None:
    """On data of one width, the map of stability says what the sampler multiplies noise by."""
    import odes
    import stability

    import adjointdpm as adp

    schedule, _ = odes.PROCESSES["VP linear"]
    plan = odes.plan_of("heun", "flow", schedule, "linspace", "v_prediction", 4)
    width = float(stability.WIDTHS[30])
    data = odes.GaussianMixture(
        means=torch.zeros(1, 3, dtype=torch.float64),
        stds=torch.tensor([width], dtype=torch.float64),
        weights=torch.ones(1, dtype=torch.float64),
    )
    denoiser = adp.Denoiser(data.network(schedule, "v_prediction"), schedule, "v_prediction")
    noise = torch.randn(2, 3, dtype=torch.float64)
    ratio = adp.Sampler(denoiser, plan)(noise) / noise
    assert torch.allclose(ratio, torch.full_like(ratio, stability.gains(plan, schedule)[30]))


def test_guide_counts_what_the_network_does() -> None:
    """Each call, each that is run again, and each product with a Jacobian, once."""
    import guide
    import torch

    import adjointdpm as adp

    class Network(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            return (x.square(),)

    network, schedule = Network(), adp.Schedule.vp_linear()
    denoiser = adp.Denoiser(lambda x, t: network(x)[0], schedule, "sample")
    sampler = adp.Sampler(denoiser, adp.solvers.build("ddim", schedule, 3, "linspace", "sample"))
    noise = torch.ones(1, 2, requires_grad=True)
    with guide.counted(network) as calls:
        sample = sampler(noise)
        assert calls == guide.Calls(forward=3, products=0)
        sample.sum().backward()
    assert calls == guide.Calls(forward=6, products=3)


@pytest.mark.parametrize("form", ["noise", "flow"])
@pytest.mark.parametrize("t", [0.01, 0.3, 0.9])
def test_the_plain_ode_in_another_time_has_its_derivatives(form: str, t: float) -> None:
    import semilinear

    import adjointdpm as adp

    schedule = adp.Schedule.vp_linear()
    ode = semilinear.InTimeOf(adp.solvers.Form.named(form), schedule)
    tau = ode.tau(semilinear.Point.at(schedule, t))
    before, after = (ode.point(schedule, tau * factor) for factor in (1 - 1e-4, 1 + 1e-4))
    rise = ode.tau(after) - ode.tau(before)
    differences = (after.alpha - before.alpha) / rise, (after.sigma - before.sigma) / rise
    assert ode.slope(ode.point(schedule, tau)) == pytest.approx(differences, rel=1e-5)


def test_a_normal_distribution_of_the_noise_s_width_balances_the_linear_term() -> None:
    """There dx/dt = 0, so that the rest is as large as the linear term."""
    import semilinear

    problem = semilinear.mixture(1.0, 1.0)
    network = problem.denoiser.network
    network.mixture.means = torch.zeros_like(network.mixture.means)
    assert semilinear.nonlinearity(problem, points=200) == pytest.approx(1, abs=0.02)


def test_any_network_is_measured_in_the_same_way() -> None:
    import architectures
    from random_networks import dit

    row = architectures.measure(dit(1, 1), steps=3, repeats=1)
    assert row["error"]["Exact"] < 1e-12
    assert row["error"]["checkpoints"] < 1e-12
    assert row["through_the_network"] > 0.1
    peaks = row["peak_bytes"]
    assert peaks["Exact"] < 1.2 * peaks["one call"] < 0.6 * peaks["autograd"]
