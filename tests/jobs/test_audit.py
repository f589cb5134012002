"""The job `audit`: on pipelines that differ, what is scored, and what a killed run leaves."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))
from families_stable_diffusion_3 import build as build_sd3
from tiny_pipeline import LABELS, build_pipeline, write_classifier

from adjointdpm import formats, load_pipeline
from adjointdpm.attacks import margin
from adjointdpm.cli.main import main
from adjointdpm.features import from_pil
from adjointdpm.jobs.audit import (
    AuditConfig,
    AuditWorker,
    Panel,
    audit_items,
    run_audit,
    write_audit_report,
)
from adjointdpm.setup import load_model
from adjointdpm.targets import load_target

BUILD = {"StableDiffusion": build_pipeline, "StableDiffusion3": build_sd3}
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=BUILD)
def config(request: Any, tmp_path_factory: pytest.TempPathFactory) -> AuditConfig:
    """An audit of a classifier that nobody trained, whose own answers are the true classes."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "parts").mkdir()
    BUILD[request.param](folder / "parts").save_pretrained(folder / "pipe")
    for seed, name in enumerate(("classifier", "judge", "other")):
        write_classifier(folder / name, seed)
    rows = [{"prompt": "a b", "label": LABELS[0], "seed": seed} for seed in range(6)]
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = AuditConfig(
        pretrained_model_name_or_path=folder / "pipe",
        output_dir=folder / "out",
        prompts_file=prompts,
        classifier=str(folder / "classifier"),
        judge=str(folder / "judge"),
        transfer=[str(folder / "other")],
        feature_network="classifier",
        num_inference_steps=2,
        radius=0.8,
        max_steps=4,
        batch_size=2,
        device="cpu",
        progress_bar=False,
    )
    worker = worker_of(config)
    for row in rows:
        start = worker.model.noise(1, torch.Generator().manual_seed(row["seed"]))
        with torch.no_grad():
            latents = worker.model.sampler(start, **worker.model.encode([row["prompt"]]))
            logits = worker.panel.classifier(worker.model.decode(latents).mul(255).round() / 255)
        # One is called by another name, and is wrong at the start.
        row["label"] = LABELS[(int(logits.argmax()) + (row["seed"] == 1)) % len(LABELS)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return config


def worker_of(config: AuditConfig) -> AuditWorker:
    return AuditWorker(config, load_model(config, CPU), Panel.load(config, CPU), targeted=False)


def read(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return from_pil(image)


def test_what_is_scored_is_the_file_that_is_saved(config: AuditConfig, tmp_path: Path) -> None:
    config = replace(config, output_dir=tmp_path / "out", stop_at_success=False)
    result = run_audit(config)
    names = (config.classifier, config.judge, *(config.transfer or ()))
    classifier, judge, other = (load_target(str(name)) for name in names)
    assert [r["seed"] for r in result.results] == list(range(6))
    for row in result.results:
        for which in ("start", "last", "best"):
            reading = row[which]
            picture = read(tmp_path / "out" / reading["picture"])[None]
            logits = classifier(picture)
            assert LABELS[int(logits.argmax())] == reading["answer"]
            label = torch.tensor([LABELS.index(row["label"])])
            assert -float(margin(logits, label)) == pytest.approx(reading["margin"], abs=1e-6)
            assert reading["judge"] == LABELS[int(judge(picture).argmax())]
            assert list(reading["transfer"].values()) == [LABELS[int(other(picture).argmax())]]
            assert reading["linf"] <= 0.8 * (1 + 1e-6)
        assert row["last"]["evaluation"] == (0 if row["seed"] == 1 else 4)
        assert row["start"]["linf"] == row["start"]["pixel_l2"] == 0
        assert row["network_calls"] == row["evaluations"] * 2 * 2
    summary = result.summary
    assert summary.accuracy is not None
    assert (summary.accuracy.successes, summary.accuracy.trials) == (5, 6)
    assert summary.fooled is not None
    assert summary.fooled_last is not None
    assert summary.fooled.trials == 5
    assert summary.fooled.successes >= max(1, summary.fooled_last.successes)


def test_the_noise_draws_the_picture_that_fools(config: AuditConfig, tmp_path: Path) -> None:
    config = replace(config, output_dir=tmp_path / "out")
    result = run_audit(config)
    fooled = [row for row in result.results if row["status"] == "fooled"]
    assert fooled
    pipe = load_pipeline(config.pretrained_model_name_or_path, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    for row in fooled[:2]:
        saved = formats.load_noise(tmp_path / "out" / row["noise"])
        images = pipe(
            saved.prompt,
            latents=saved.noise,
            num_inference_steps=saved.num_inference_steps,
            guidance_scale=saved.guidance_scale,
            output_type="pt",
        ).images
        picture = read(tmp_path / "out" / row["best"]["picture"])
        # To within the rounding to 8 bits.
        torch.testing.assert_close(images[0], picture, rtol=0, atol=0.51 / 255)
    page = write_audit_report(result, "adjointdpm audit").read_text()
    assert page.count("<figure") == 6
    alts = page.split('alt="')[1:]
    assert len(alts) == len({alt.split('"')[0] for alt in alts}) == 11
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_neighbours_in_a_batch_change_nothing(config: AuditConfig, tmp_path: Path) -> None:
    """Up to rounding: kernels of batches of another size add up in another order."""
    found = {}
    for size in (1, 3, 6):
        one = replace(
            config, output_dir=tmp_path / f"{size}", batch_size=size, step_rule="normalized"
        )
        found[size] = {row["id"]: row for row in run_audit(one).results}
    for size in (3, 6):
        for name, row in found[1].items():
            other = found[size][name]
            assert row["status"] == other["status"]
            assert row["evaluations"] == other["evaluations"]
            assert row["best"]["margin"] == pytest.approx(other["best"]["margin"], abs=1e-2)


def test_a_killed_run_goes_on(config: AuditConfig, tmp_path: Path) -> None:
    config = replace(config, output_dir=tmp_path / "out")
    whole = run_audit(replace(config, output_dir=tmp_path / "whole"))
    original, made = AuditWorker.advance, 0

    def killed(self: AuditWorker, items: Any) -> Any:
        nonlocal made
        made += 1
        if made == 6:
            raise KeyboardInterrupt
        return original(self, items)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(AuditWorker, "advance", killed)
        with pytest.raises(KeyboardInterrupt):
            run_audit(config)
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert 0 < len(lines) < 6
    result = run_audit(replace(config, resume_from_checkpoint="latest"))
    after = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert after[: len(lines)] == lines
    assert sorted(json.loads(line)["id"] for line in after) == sorted(
        row["id"] for row in whole.results
    )
    assert [row["status"] for row in result.results] == [row["status"] for row in whole.results]


def test_a_picture_may_change_no_more_than_the_limit(config: AuditConfig, tmp_path: Path) -> None:
    for name, limit in (("ssim", 0.05), ("perceptual", 0.01)):
        result = run_audit(
            replace(
                config,
                output_dir=tmp_path / name,
                radius=None,
                step_size=0.5,
                picture_distance=name,
                picture_limit=limit,
            )
        )
        for row in result.results:
            best = row["best"]
            assert best["within"]
            assert (1 - best["ssim"] if name == "ssim" else best["perceptual"]) <= limit + 1e-5
        moved = [row["best"]["linf"] for row in result.results if row["seed"] != 1]
        assert max(moved) > 0


def test_the_command_on_the_embedded_model(tmp_path: Path) -> None:
    flags = ["--num_inference_steps", "1", "--num_prompts", "2", "--max_steps", "1"]
    assert main(["audit", "--output_dir", str(tmp_path / "out"), *flags]) == 0
    numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert numbers["items"] == 2
    assert numbers["certificate"]["targets"][0]["relative_error"] < 1e-6
    assert "How often" in (tmp_path / "out" / "report.html").read_text()


def test_shards_share_the_items(config: AuditConfig) -> None:
    items = audit_items(config)
    assert len({item["id"] for item in items}) == len(items) == 6


def test_targets(config: AuditConfig, tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text(f"prompt,label,target\na,{LABELS[0]},{LABELS[1]}\nb,{LABELS[2]},\n")
    with pytest.raises(ValueError, match="1 of 2 items have a target"):
        audit_items(replace(config, prompts_file=path))
    items = audit_items(replace(config, prompts_file=path, target=LABELS[4], num_prompts=2))
    assert [item["target"] for item in items] == [LABELS[1], LABELS[4]]
    with pytest.raises(ValueError, match="its own label"):
        audit_items(replace(config, prompts_file=path, target=LABELS[2]))
    path.write_text("prompt,colour\na,b\n")
    with pytest.raises(ValueError, match=r"line 2 of .* unknown column colour"):
        audit_items(replace(config, prompts_file=path))
    path.write_text("prompt,label\na,platypus\n")
    with pytest.raises(ValueError, match="no class 'platypus'"):
        run_audit(replace(config, prompts_file=path, output_dir=tmp_path / "out"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"radius": None}, "radius or picture_limit"),
        ({"radius": None, "picture_limit": 0.1}, "set step_size"),
        ({"norm": "l1"}, "norm must be one of"),
        ({"shard_index": 1}, "shard_index"),
        ({"num_workers": 2}, "executor ray"),
        ({"pretrained_model_name_or_path": "p"}, "set prompts_file"),
        ({"max_steps": 0}, "max_steps"),
        ({"overwrite_output_dir": True, "resume_from_checkpoint": "latest"}, "would remove"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AuditConfig(**settings)
