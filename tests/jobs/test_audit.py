"""The job `audit`: on pipelines that differ, what is scored, and what a killed run leaves."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))
from families_stable_diffusion_3 import build as build_sd3
from tiny_pipeline import LABELS, build_pipeline, drawn_from, write_classifier

from adjointdpm import encode_image, formats
from adjointdpm.attacks import margin
from adjointdpm.cli.main import main
from adjointdpm.executors import WorkerFactory
from adjointdpm.features import from_pil
from adjointdpm.inversion import invert
from adjointdpm.jobs.audit import (
    AuditConfig,
    AuditResult,
    AuditWorker,
    Panel,
    audit_items,
    run_audit,
    settings_of,
    write_audit_report,
)
from adjointdpm.report import save_picture
from adjointdpm.setup import Model, load_model, one_step_sampler
from adjointdpm.targets import load_target

BUILD = {"StableDiffusion": build_pipeline, "StableDiffusion3": build_sd3}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Setting:
    """An audit of a classifier that nobody trained, whose own answers are the true classes."""

    config: AuditConfig
    model: Model
    panel: Panel

    def work(self, folder: Path, **changes: Any) -> dict[str, Any]:
        """Return the results of all items by name, from a worker in whose batch places are kept
        filled."""
        config = replace(self.config, output_dir=folder, **changes)
        worker = AuditWorker(config, self.model, self.panel, targeted=False)
        waiting, results = audit_items(config), {}
        free, count = worker.capacity, len(waiting)
        while len(results) < count:
            new, waiting = waiting[:free], waiting[free:]
            ended = worker.advance(new)
            free += len(ended) - len(new)
            results |= {row["id"]: dict(row) for row in ended}
        return results


@pytest.fixture(scope="module", params=BUILD)
def setting(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("audit")
    (folder / "parts").mkdir()
    torch.manual_seed(0)
    BUILD[request.param](folder / "parts").save_pretrained(folder / "pipe")
    for seed, name in enumerate(("classifier", "judge", "other")):
        write_classifier(folder / name, seed)
    rows = [{"prompt": "a b", "label": LABELS[0], "seed": seed} for seed in range(4)]
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
        radius=1.5,
        max_steps=3,
        batch_size=2,
        device="cpu",
        progress_bar=False,
    )
    model, panel = load_model(config, CPU), Panel.load(config, CPU)
    starts = [model.noise(1, torch.Generator().manual_seed(row["seed"])) for row in rows]
    cond = model.encode([row["prompt"] for row in rows])
    with torch.no_grad():
        pictures = model.decode(model.sampler(torch.cat(starts), **cond)).mul(255).round() / 255
        logits = panel.classifier(pictures)
        # Without a favourite of its own it depends on the picture what it says.
        panel.classifier.model.classifier[-1].bias -= logits.mean(0)
        panel.classifier.model.save_pretrained(folder / "classifier")
        answers = panel.classifier(pictures).argmax(1).tolist()
    for row, answer in zip(rows, answers, strict=True):
        # One is called by another name, and is wrong at the start.
        row["label"] = LABELS[(answer + (row["seed"] == 1)) % len(LABELS)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Setting(config, model, panel)


@pytest.fixture(scope="module")
def done(setting: Setting) -> AuditResult:
    return run_audit(setting.config)


def read(path: Path) -> Tensor:
    with Image.open(path) as image:
        return from_pil(image)


def test_what_is_scored_is_the_file_that_is_saved(setting: Setting, tmp_path: Path) -> None:
    names = (setting.config.classifier, setting.config.judge, *(setting.config.transfer or ()))
    classifier, judge, other = (load_target(str(name)) for name in names)
    results = setting.work(tmp_path, stop_at_success=False)
    for row in results.values():
        for which in ("start", "last", "best"):
            reading = row[which]
            picture = read(tmp_path / reading["picture"])[None]
            logits = classifier(picture)
            assert LABELS[int(logits.argmax())] == reading["answer"]
            label = torch.tensor([LABELS.index(row["label"])])
            assert -float(margin(logits, label)) == pytest.approx(reading["margin"], abs=1e-6)
            assert reading["judge"] == LABELS[int(judge(picture).argmax())]
            assert list(reading["transfer"].values()) == [LABELS[int(other(picture).argmax())]]
            assert reading["linf"] <= 1.5 * (1 + 1e-6)
        wrong = row["seed"] == 1
        assert row["status"] == "wrong at the start" if wrong else row["status"] != "not finite"
        assert row["last"]["evaluation"] == (0 if wrong else 3)
        assert row["best"]["margin"] <= row["last"]["margin"] + 1e-6
        assert row["start"]["linf"] == row["start"]["pixel_l2"] == 0
        assert row["network_calls"] == row["evaluations"] * 2 * 2


def test_the_noise_draws_the_picture_that_fools(setting: Setting, done: AuditResult) -> None:
    fooled = [row for row in done.results if row["status"] == "fooled"]
    assert fooled
    row, folder = fooled[0], Path(setting.config.output_dir)
    saved = formats.load_noise(folder / row["noise"])
    images = drawn_from(saved, setting.model.pipe)
    # To within the rounding to 8 bits.
    picture = read(folder / row["best"]["picture"])
    torch.testing.assert_close(images[0], picture, rtol=0, atol=0.51 / 255)


def test_what_is_counted(done: AuditResult) -> None:
    assert [row["seed"] for row in done.results] == [0, 1, 2, 3]
    summary = done.summary
    assert summary.accuracy is not None
    assert (summary.accuracy.successes, summary.accuracy.trials) == (3, 4)
    assert summary.fooled is not None
    assert summary.fooled.trials == 3
    assert summary.fooled.successes == sum(row["status"] == "fooled" for row in done.results)
    page = write_audit_report(done, "adjointdpm audit").read_text()
    assert page.count("<figure") == 4
    alts = [part.split('"')[0] for part in page.split('alt="')[1:]]
    assert len(alts) == len(set(alts)) == 7
    assert 'src="http' not in page


def test_the_neighbours_in_a_batch_change_nothing(setting: Setting, tmp_path: Path) -> None:
    """Up to rounding: kernels of batches of another size add up in another order, and a value on
    the edge of two of 255 levels falls to one side or the other."""
    changes = {"radius": 0.05, "step_rule": "normalized", "stop_at_success": False}
    alone = setting.work(tmp_path, batch_size=1, **changes)
    for name, row in setting.work(tmp_path, batch_size=3, **changes).items():
        assert row["evaluations"] == alone[name]["evaluations"]
        for number in ("margin", "l2"):
            other = alone[name]["best"][number]
            assert row["best"][number] == pytest.approx(other, rel=0.05)


def test_a_killed_run_goes_on(setting: Setting, done: AuditResult, tmp_path: Path) -> None:
    config = replace(setting.config, output_dir=tmp_path / "out")
    original, file = AuditWorker.advance, tmp_path / "out" / "results.jsonl"

    def killed(self: AuditWorker, items: Any) -> Any:
        if file.read_text():
            raise KeyboardInterrupt
        return original(self, items)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(AuditWorker, "advance", killed)
        with pytest.raises(KeyboardInterrupt):
            run_audit(config)
    lines = file.read_text().splitlines()
    assert 0 < len(lines) < 4
    result = run_audit(replace(config, resume_from_checkpoint="latest"))
    after = file.read_text().splitlines()
    assert after[: len(lines)] == lines
    assert len(after) == len({json.loads(line)["id"] for line in after}) == 4
    for row, whole in zip(result.results, done.results, strict=True):
        assert (row["id"], row["status"]) == (whole["id"], whole["status"])


def test_a_picture_changes_no_more_than_the_limit(setting: Setting, tmp_path: Path) -> None:
    by_ssim = hasattr(setting.model.pipe, "unet")  # one family each: they differ in nothing else
    name, limit = ("ssim", 0.2) if by_ssim else ("perceptual", 0.05)
    changes = {"radius": None, "step_size": 0.1, "max_steps": 4, "stop_at_success": False}
    results = setting.work(tmp_path, picture_distance=name, picture_limit=limit, **changes)
    for row in results.values():
        best = row["best"]
        assert best["within"]
        assert (1 - best["ssim"] if name == "ssim" else best["perceptual"]) <= limit + 1e-5
    assert max(row["best"]["linf"] for row in results.values()) > 0


def test_a_given_picture_is_where_the_attack_begins(setting: Setting, tmp_path: Path) -> None:
    """A picture of the model's own by DDIM: its noise draws it again."""
    lines = Path(str(setting.config.prompts_file)).read_text().splitlines()
    model = replace(setting.model, sampler=one_step_sampler(setting.model.sampler))
    noise = model.noise(1, torch.Generator().manual_seed(0))
    with torch.no_grad():
        picture = model.decode(model.sampler(noise, **model.encode(["a b"])))[0]
    save_picture(tmp_path / "given.png", picture)
    row = {
        "prompt": "a b",
        "label": json.loads(lines[0])["label"],
        "picture": str(tmp_path / "given.png"),
    }
    (tmp_path / "prompts.jsonl").write_text(json.dumps(row) + "\n")
    config = replace(
        setting.config,
        prompts_file=tmp_path / "prompts.jsonl",
        output_dir=tmp_path / "out",
        max_steps=1,
    )
    result = run_audit(config)
    [found] = result.results
    latents = encode_image(model.pipe, read(tmp_path / "given.png")[None])
    expected = invert(model.sampler, latents, **model.encode(["a b"]))
    with torch.no_grad():
        drawn = model.decode(model.sampler(expected.noise, **model.encode(["a b"])))[0]
    start = read(tmp_path / "out" / found["start"]["picture"])
    torch.testing.assert_close(start, drawn, rtol=0, atol=1.01 / 255)
    assert found["inversion_error"] == pytest.approx(float(expected.error), rel=1e-3)
    assert result.summary.inversion is not None
    row["picture"] = str(tmp_path / "wide.png")
    save_picture(tmp_path / "wide.png", torch.zeros(3, 16, 32))
    (tmp_path / "prompts.jsonl").write_text(json.dumps(row) + "\n")
    result = run_audit(replace(config, output_dir=tmp_path / "wide"))
    assert "pictures of another size" in result.results[0]["error"]
    assert (result.summary.failed, result.summary.accuracy) == (1, None)
    write_audit_report(result, "adjointdpm audit")


def test_another_process_builds_the_same_worker(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = replace(setting.config, output_dir="out")
    Path("out").mkdir()
    settings = {"settings": settings_of(config)}
    factory = WorkerFactory("adjointdpm.jobs.audit:build_worker", settings)
    monkeypatch.chdir("/")
    worker = WorkerFactory.from_json(factory.to_json())()
    item = audit_items(config)[1]
    [result] = worker.advance([item])
    assert (result["id"], result["status"]) == (item["id"], "wrong at the start")
    assert (tmp_path / "out" / result["start"]["picture"]).is_file()


def test_the_command_on_the_embedded_model(tmp_path: Path) -> None:
    flags = ["--num_inference_steps", "1", "--num_prompts", "2", "--max_steps", "1"]
    assert main(["audit", "--output_dir", str(tmp_path / "out"), *flags]) == 0
    numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert numbers["items"] == 2
    assert numbers["certificate"]["targets"][0]["relative_error"] < 1e-6
    assert "How often" in (tmp_path / "out" / "report.html").read_text()


def test_rows_that_make_no_item(tmp_path: Path) -> None:
    config = AuditConfig(pretrained_model_name_or_path="none", prompts_file="none")
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
    path.write_text("prompt,label\n")
    with pytest.raises(ValueError, match="has no rows"):
        audit_items(replace(config, prompts_file=path))
    path.write_text(f"prompt,label\na,{LABELS[0]}\n", encoding="utf-16")
    with pytest.raises(ValueError, match="is not in UTF-8"):
        audit_items(replace(config, prompts_file=path))
    path.write_text("prompt,label\na,\n")
    with pytest.raises(ValueError, match=r"line 2 of .* has no label"):
        audit_items(replace(config, prompts_file=path))


def test_classes_that_a_classifier_does_not_know(setting: Setting) -> None:
    with pytest.raises(ValueError, match=r"the classifier cannot be asked: .* no class 'platypus'"):
        setting.panel.check([{"label": "platypus", "target": None}])


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
        ({"resume_from_checkpoint": "checkpoint-3"}, "must be latest"),
        ({"overwrite_output_dir": True, "resume_from_checkpoint": "latest"}, "would remove"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AuditConfig(**settings)


def test_ray_that_is_not_there_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match="needs Ray"):
        run_audit(AuditConfig(output_dir=tmp_path / "run", executor="ray"))
    assert not list(tmp_path.iterdir())
