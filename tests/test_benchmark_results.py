"""Benchmarks, at toy size, write what the tables of the documents read."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipeline import write_assets

import adjointdpm as adp
from adjointdpm.assets import ASSETS_VARIABLE
from benchmarks.tables import audits, experiments, jobs, methods, peers, solvers, writing

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small model of random weights, to stand in for the embedded one."""
    return str(write_assets(tmp_path_factory.mktemp("tiny") / "assets"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: str) -> Iterator[Run]:
    """Run a benchmark with arguments; the tables then read what it wrote."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv(ASSETS_VARIABLE, tiny)
    monkeypatch.setattr(writing, "RESULTS", tmp_path)
    threads = torch.get_num_threads()

    def run(name: str, *arguments: str, **settings: Any) -> Any:
        module = import_module(name)
        for setting, value in settings.items():
            monkeypatch.setattr(module, setting, value)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        module.main()
        return module

    yield run
    torch.set_num_threads(threads)


def small_network(args: Any) -> torch.nn.Module:
    """Return what the UNet of `core.make_network` is, smaller."""
    core, gpu = import_module("core"), import_module("gpu")
    unet = gpu.UNet2DConditionModel(**{**gpu.MODELS["toy"].config, "cross_attention_dim": 64})
    return core.TimeScaled(unet).requires_grad_(args.weights)


def rows(table: str) -> int:
    """Return the rows of a table below its head."""
    return len(table.strip().splitlines()) - 2


def test_solvers(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchdiffeq")
    shown = {"ddim": ("",), "heun": ("noise", "flow"), "ab4": ("angle",)}
    monkeypatch.setattr(solvers, "SHOWN", shown)
    run("solvers", "--toy", "--output_dir", str(tmp_path), TOLERANCES=(1e-2,))
    assert rows(solvers.by_solver()) == 4
    assert rows(solvers.by_tolerance()) == 5
    assert all(row["calls"] == 24 for row in writing.read("solvers")["fixed"])


def test_rules_for_few_products(run: Run, tmp_path: Path) -> None:
    toy = ["--toy", "--seeds", "1", "--num_inference_steps", "4", "--output_dir", str(tmp_path)]
    run("coarse_steps", *toy)
    assert rows(methods.by_steps()) == 2
    run("coarse_steps", *toy, "--rules")
    assert "**" in methods.by_rule_at_few_steps()
    default = [row for row in writing.read("coarse_rules")["rows"] if row["rule"] == "density 1.5"]
    assert default == writing.read("coarse_steps")["rows"]


def test_reversible(run: Run, tmp_path: Path) -> None:
    run("reversible", "--toy", "--num_inference_steps", "5", "--output_dir", str(tmp_path))
    assert float(methods.worst_reversible("relative_error")) < 1e-12


def test_core(run: Run, tmp_path: Path) -> None:
    small = ["--batch", "1", "--repeats", "1", "--device", "cpu", "--output_dir", str(tmp_path)]
    steps = ["--steps", "2", "--memory_steps", "1", "3"]
    run("core", *steps, *small, make_network=small_network)
    written = writing.read("core")
    assert written["time"]["exact"] > 0
    assert written["memory"]["exact"]["3"] < written["memory"]["backprop"]["3"]
    assert (tmp_path / "core.png").stat().st_size > 5_000


def test_cost(run: Run, tmp_path: Path) -> None:
    small = ["--steps", "2", "--batch", "1", "--size", "8", "--repeats", "1", "--device", "cpu"]
    small += ["--methods", "Exact()", "Backprop()"]
    for more in ([], ["--weights"]):
        folder = ["--output_dir", str(tmp_path)]
        run("cost", *small, *more, *folder, make_network=small_network)
    assert peers.worst_prediction("peak_memory") < 0.05
    assert math.isfinite(peers.worst_prediction("seconds"))


def test_inversion(run: Run, tmp_path: Path) -> None:
    import inversion

    ways = dict(list(inversion.WAYS.items())[:2])
    file = str(tmp_path / "inversion.json")
    run("inversion", "--output", file, STEPS=2, PICTURES=1, WAYS=ways)
    assert rows(experiments.inversions()) == 2
    one_guess, fixed_points = writing.read("inversion")["rows"].values()
    assert fixed_points["latent_error"] < one_guess["latent_error"]


def test_low_memory(run: Run, tmp_path: Path) -> None:
    run("low_memory", "--output_dir", str(tmp_path))
    assert experiments.kept_by_a_call().endswith("MiB")
    kept = [row["bytes"] for row in writing.read("low_memory")["rows"]]
    assert kept[1] < kept[0]


def test_reruns(run: Run, tmp_path: Path) -> None:
    toy = ["--model", "toy", "--steps", "1", "--size", "8", "--repeats", "1", "--device", "cpu"]
    run("reruns", *toy, "--output_dir", str(tmp_path))
    written = writing.read("reruns_toy")
    assert written["seconds_of_parts"]["fingerprint"] > 0
    assert written["share_of_all"] > 0


def test_rounding(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adp, "load_default", cache(adp.load_default))
    run("rounding", "--count", "1", "--output_dir", str(tmp_path), STEPS=1)
    assert rows(methods.told_apart()) == 4
    raised = {row["what"]: row["raised"] for row in writing.read("rounding")["rows"][:4]}
    assert (raised["nothing"], raised["all weights by 1e-3"]) == (0, 1)


def test_terrain(run: Run, tmp_path: Path) -> None:
    class Network(torch.nn.Module):
        """In place of the network of the package."""

        def forward(self, x: torch.Tensor, t: torch.Tensor, difficulty: Any) -> torch.Tensor:
            return difficulty * torch.sin(x / (1 + t.reshape(-1, 1, 1, 1) ** 2) ** 0.5)

    file = ["--weights", "none.onnx", "--solvers", "ddim", "--num_inference_steps", "4"]
    run("terrain", *file, "--output_dir", str(tmp_path), TerrainNetwork=lambda path: Network())
    assert rows(experiments.by_steps_on_terrain()) == 9
    assert writing.read("terrain")["rows"][0]["error_noise"] < 1e-5


def test_audit(run: Run, tmp_path: Path) -> None:
    few = ["--items", "2", "--batching_items", "3", "--batching_steps", "1"]
    files = ["--output", str(tmp_path / "audit.json"), "--folder", str(tmp_path / "audits")]
    parts = ["audit", "batching", "methods", "--method_items", "2"]
    gradients = {"Exact(memory_budget='1GiB')": adp.Exact(), "Exact()": adp.Exact()}
    small = {"STEPS": 1, "MAX_STEPS": 1, "BATCH": 2, "GRADIENTS": gradients}
    run("audit", *parts, *few, *files, **small)
    assert rows(audits.audit_batches(1)) == 3
    assert rows(audits.audit_methods()) == 2
    assert writing.read("audit")["parts"]["methods"]["rows"]["Exact()"]["items"] == 2
    assert rows(audits.audit_rates("audit, radius 0.3")) == len(audits.RATES)


def test_audit_of_pixels(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("foolbox")
    from benchmarks import audit_pixels

    attacks = dict(list(audit_pixels.ATTACKS.items())[:1])
    files = ["--output", str(tmp_path / "audit_pixels.json"), "--folder", str(tmp_path / "audits")]
    settings = {"STEPS": 1, "SAMPLING_STEPS": 1, "BATCH": 2, "ATTACKS": attacks}
    run("benchmarks.audit_pixels", "--items", "2", "--boxes", "8", *files, **settings)
    assert rows(jobs.attacks("audit_pixels")) == 2


def test_guide_by_gradient(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import guide
    import guide_gradients

    monkeypatch.setattr(guide, "STEPS", 4)
    own, cut = guide_gradients.THE_JOBS, "Truncated(2, 'detach_outputs')"
    few = {name: guide_gradients.GRADIENTS[name] for name in (own, cut)}
    file = tmp_path / "guide_gradients.json"
    toy = ["--pictures", "1", "--targets", "1", "--updates", "1", "--output", str(file)]
    run("guide_gradients", *toy, GRADIENTS=few)
    assert rows(jobs.guides_by_gradient()) == 2
    for name, products in ((own, 4), (cut, 2)):
        (row,) = writing.read("guide_gradients")["rows"][name].values()
        assert row["calls"]["products"] == products * row["updates"]
    written = file.read_bytes()
    run("guide_gradients", *toy)
    assert file.read_bytes() == written


def test_quality(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import quality_report

    monkeypatch.setattr(quality_report, "GROUPS", 2)
    folders = ["--work_dir", str(tmp_path), "--output_dir", str(tmp_path), "--own_reference", "3"]
    arguments = [*folders, "--num_images", "100", "--calls", "2", "--solvers", "ddim"]
    run("quality", *arguments, BLOCK=50)
    assert rows(experiments.sample_quality("its own pictures, 3 calls")) == 1
    written = (tmp_path / "quality.json").read_text()
    run("quality", *arguments, "--max_seconds", "0")
    assert json.loads(written)["rows"] == writing.read("quality")["rows"]
