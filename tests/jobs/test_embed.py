"""The job `embed`, on pipelines whose conditioning differs and with objectives of every kind."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))
from families_stable_diffusion_xl import build as build_sdxl
from tiny_pipeline import build_pipeline, write_assets, write_classifier

import adjointdpm as adp
from adjointdpm.assets import ASSETS_VARIABLE
from adjointdpm.cli import main
from adjointdpm.jobs.embed import EmbedConfig, run_embed
from adjointdpm.jobs.embed.run import teach, update_loss
from adjointdpm.jobs.embed.start import (
    Examples,
    best_candidates,
    denoising_error,
    inversion_error,
    invert,
)
from adjointdpm.jobs.embed.subject import Subject, contexts_in
from adjointdpm.objectives import ClassifierMargin, ImageClassifier, as_objective
from adjointdpm.report import save_picture
from adjointdpm.runs import StoppedError
from adjointdpm.setup import Goal, load_model
from adjointdpm.variables import Word

BUILD: dict[str, Callable[[Path], Any]] = {"SD": build_pipeline, "SDXL": build_sdxl}


def redness(images: Tensor) -> Tensor:
    return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


redness.larger_is_better = True  # type: ignore[attr-defined]
RED = torch.tensor([1.0, 0, 0]).reshape(3, 1, 1)


@pytest.fixture(scope="module", params=BUILD)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipe")
    BUILD[request.param](tmp_path_factory.mktemp("parts")).save_pretrained(folder)
    return folder


@pytest.fixture
def one_encoder(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    build_pipeline(tmp_path / "parts").save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


def settings(folder: Path, out: Path, **changes: Any) -> EmbedConfig:
    usual: dict[str, Any] = {
        "pretrained_model_name_or_path": folder,
        "output_dir": out,
        "templates": ["a {}"],
        "initializer_token": "c",
        "num_vectors": 1,
        "num_inference_steps": 2,
        "num_candidates": 3,
        "num_examples": 2,
        "inversion_steps": 2,
        "inversion_batch_size": 2,
        "num_views": 0,
        "train_batch_size": 4,
        "max_train_steps": 4,
        "num_validation_images": 4,
        "learning_rate": 0.08,
        "device": "cpu",
        "progress_bar": False,
    }
    return EmbedConfig(**{**usual, **changes})


@pytest.mark.parametrize("variable", ["word", "prompt_embeds"])
def test_what_is_reported_is_what_the_file_draws(
    saved: Path, variable: Any, tmp_path: Path
) -> None:
    config = settings(
        saved, tmp_path / "out", variable=variable, guidance_scale=2.0, num_candidates=0
    )
    drawn: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        if images.requires_grad:
            drawn.append(images.detach())
        return redness(images)

    result = run_embed(config, as_objective(watched, larger_is_better=True))
    [validation] = result.validations
    assert validation.metric_before == redness(validation.before).tolist()
    assert validation.metric_after == redness(validation.after).tolist()
    losses = [-redness(images).mean().item() for images in drawn]
    assert result.history.losses == pytest.approx(losses, rel=1e-6)
    assert result.recognised("after") is None
    # From the file, by its loader, come the pictures after; from its first word, those before.
    pipe = adp.load_pipeline(saved)
    if variable == "word":
        [(token, vectors)] = adp.formats.load_learned_embeds(tmp_path / "out").items()
        assert token == "<it>"
        word = Word(pipe, token, "c")
        assert isinstance(vectors, dict) == (len(word.tensors) == 2)
        if not isinstance(vectors, dict):
            vectors = {"clip_l": vectors}
        for rows, encoder in zip(word.tensors.values(), ("clip_l", "clip_g"), strict=False):
            learned = vectors[encoder]
            assert not torch.equal(rows, learned)
            rows.data.copy_(learned)
        learned_cond = word.encode(["a <it>"], guidance=True)
    else:
        learned_cond = adp.formats.load_prompt_embeds(tmp_path / "out").cond
    sampler, decode = adp.from_pipeline(pipe, 2, 2.0)
    noise = torch.randn(
        4, *adp.latent_shape(pipe)[1:], generator=torch.Generator().manual_seed(1_000_000)
    )
    start = adp.encode_prompt(pipe, ["a c"], guidance=True)
    for cond, pictures in ((start, validation.before), (learned_cond, validation.after)):
        with torch.no_grad():
            images = torch.cat([decode(sampler(each[None], **cond)) for each in noise[:2]])
        torch.testing.assert_close(images, pictures[:2], rtol=0, atol=1e-4)


@pytest.fixture
def goals(
    one_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, dict[str, Any]]:
    """The settings that name an objective."""
    save_picture(tmp_path / "red.png", RED.expand(3, 20, 20))
    (tmp_path / "my_metrics.py").write_text(
        "def dark(images):\n    return images.mean((1, 2, 3))\ndark.larger_is_better = False\n"
    )
    monkeypatch.chdir(tmp_path)
    return {
        "picture": {"target_image": tmp_path / "red.png"},
        "class": {
            "target": "rocket",
            "classifier": write_classifier(tmp_path / "classifier"),
            "margin": 100.0,
        },
        "function": {"objective": "my_metrics:dark"},
    }


def test_what_teaches_is_what_the_settings_name(
    one_encoder: Path, goals: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    classifier = ImageClassifier.from_pretrained(tmp_path / "classifier")
    expected: dict[str, tuple[str, bool, Callable[[Tensor], Tensor]]] = {
        "picture": (
            "the squared difference from red.png",
            False,
            lambda images: (images - RED).square().mean((1, 2, 3)),
        ),
        "class": (
            "a classifier’s margin for “rocket”",
            True,
            ClassifierMargin(classifier, "rocket", cap=100.0),
        ),
        "function": ("my_metrics:dark", False, lambda images: images.mean((1, 2, 3))),
    }
    for name, (described, larger_is_better, metric) in expected.items():
        short = {"max_train_steps": 1, "num_candidates": 2, "inversion_steps": 1}
        result = run_embed(settings(one_encoder, tmp_path / name, **short, **goals[name]))
        assert (result.objective, result.larger_is_better) == (described, larger_is_better)
        [validation] = result.validations
        for when in ("before", "after"):
            pictures = getattr(validation, when)
            assert getattr(validation, f"metric_{when}") == pytest.approx(
                metric(pictures).tolist(), rel=1e-4
            )


def taught(folder: Path, out: Path, **changes: Any) -> Subject:
    config = settings(folder, out, **changes)
    return Subject(config, load_model(config, torch.device("cpu")))


# A first update of Adam goes against the sign of the gradient: where it is small enough, downhill.
SMALL: dict[str, Any] = {
    "learning_rate": 1e-4,
    "inversion_learning_rate": 1e-4,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "max_train_steps": 1,
}


def shorten(subject: Subject) -> None:
    """Let the word be shorter than at the start, so that no update scales it back."""
    for rows in subject.tensors.values():
        rows.data.mul_(0.9)


@pytest.mark.parametrize("variable", ["word", "prompt_embeds"])
def test_a_small_update_goes_downhill(saved: Path, variable: Any, tmp_path: Path) -> None:
    """On the very noises that it was computed from, which are the first in every run."""
    subject = taught(saved, tmp_path, variable=variable, guidance_scale=2.0, **SMALL)
    shorten(subject)
    (before,), (after,) = (teach(subject, as_objective(redness)).losses for _ in range(2))
    assert after < before


@pytest.mark.parametrize("goal", ["picture", "class", "function"])
def test_a_small_update_comes_nearer_to_any_goal(
    one_encoder: Path, goals: dict[str, dict[str, Any]], tmp_path: Path, goal: str
) -> None:
    subject = taught(one_encoder, tmp_path, **SMALL, **goals[goal])
    objective = Goal(subject.config, None, None, torch.device("cpu")).objective
    shorten(subject)
    (before,), (after,) = (teach(subject, objective).losses for _ in range(2))
    assert after < before


def test_a_run_goes_on_as_if_it_had_never_stopped(saved: Path, tmp_path: Path) -> None:
    few = {"train_batch_size": 2, "max_train_steps": 3, "num_validation_images": 1}
    whole = run_embed(settings(saved, tmp_path / "whole", **few), redness)
    config = settings(saved, tmp_path / "parts", checkpointing_steps=2, **few)
    steps = 0

    def stops(images: Tensor) -> Tensor:
        nonlocal steps
        steps += images.requires_grad
        if steps == 3:
            raise KeyboardInterrupt
        return redness(images)

    with pytest.raises((StoppedError, KeyboardInterrupt)):
        run_embed(config, as_objective(stops, larger_is_better=True))
    assert (tmp_path / "parts" / "checkpoint-2").is_dir()
    gone_on = run_embed(replace(config, resume_from_checkpoint="latest"), redness)
    assert gone_on.history.losses == whole.history.losses
    for name, tensor in load_file(whole.file).items():
        assert torch.equal(load_file(gone_on.file)[name], tensor)


def test_a_word_starts_from_the_best_candidates_and_no_bad_ones(
    one_encoder: Path, tmp_path: Path
) -> None:
    templates = ["a {}", "b {}"]
    red = as_objective(redness)
    usual = {"templates": templates, "contexts": ["{} c"], "num_candidates": 9}
    for asked in (1, 12):
        subject = taught(one_encoder, tmp_path, **usual, num_examples=asked)
        found = best_candidates(subject, red)
        noise = torch.randn(
            9, *subject.model.latent_shape, generator=torch.Generator().manual_seed(0)
        )
        prompts = [templates[i % 2] for i in range(9)]
        losses = -redness(subject.draw_many(noise, prompts))
        order = losses.argsort()
        good = int((losses <= (losses.min() + losses.median()) / 2).sum())
        assert good < 9
        kept = order[: min(asked, good)]
        with torch.no_grad():
            latents = subject.sample(noise, prompts)
        assert torch.allclose(found.latents, latents[kept], atol=1e-5)
        assert found.spread == pytest.approx((losses.median() - losses.min()).item(), rel=1e-4)


def test_the_start_follows_the_error_that_diffusers_trains_with(
    one_encoder: Path, tmp_path: Path
) -> None:
    subject = taught(one_encoder, tmp_path, guidance_scale=2.0)
    pipe, generator = subject.model.pipe, torch.Generator().manual_seed(1)
    clean, noise = (torch.randn(4, *subject.model.latent_shape, generator=generator) for _ in "ab")
    t = torch.tensor([999, 700, 400, 10])
    templates = ["a {}", "{}", "b {}", "{} c"]
    error = denoising_error(subject, clean, noise, t, templates)
    hidden = subject.encode(templates)["encoder_hidden_states"]
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    noisy = scheduler.add_noise(clean, noise, t)
    answer = pipe.unet(noisy, t, encoder_hidden_states=hidden).sample
    assert scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(clean, noise, t)
    assert error.item() == pytest.approx((answer - target).square().mean().item(), rel=1e-5)


def test_a_small_update_fits_the_pictures_better(one_encoder: Path, tmp_path: Path) -> None:
    """On the very noises that it was computed from, which are the first in every run."""
    subject = taught(one_encoder, tmp_path, guidance_scale=2.0, **SMALL)
    shorten(subject)
    examples = Examples(torch.randn(2, *subject.model.latent_shape))
    (before,), (after,) = (invert(subject, examples, 1) for _ in range(2))
    assert after < before


def test_the_error_for_the_examples_counts_in_the_gradient_alone(
    one_encoder: Path, tmp_path: Path
) -> None:
    subject = taught(one_encoder, tmp_path, inversion_weight=5.0)
    noise = torch.randn(3, *subject.model.latent_shape, generator=torch.Generator().manual_seed(1))
    examples = Examples(noise, spread=0.3)
    [rows] = subject.tensors.values()
    generator, red = torch.Generator().manual_seed(2), as_objective(redness)
    alone = update_loss(subject, red, None, generator)
    error = inversion_error(subject, examples, generator)
    together = update_loss(subject, red, examples, torch.Generator().manual_seed(2))
    assert together.item() == pytest.approx(alone.item(), rel=1e-6)
    of_alone, of_error, found = (
        torch.autograd.grad(each, rows)[0] for each in (alone, error, together)
    )
    expected = of_alone + 5 * 0.3 * of_error
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * expected.norm().item())
    assert (found - of_alone).norm() > 0.01 * found.norm()


def test_half_of_the_prompts_are_contexts(one_encoder: Path, tmp_path: Path) -> None:
    few = {"templates": ["a {}", "b {}"]}
    for contexts, share in ((None, 0.5), (["c {}", "{} c"], 0.25)):
        subject = taught(one_encoder, tmp_path, **few, contexts=contexts)
        found = Counter(subject.prompts(1000, torch.Generator().manual_seed(0)))
        assert set(found) == {*few["templates"], *(contexts or [])}
        # Binomial: five standard deviations.
        bound = 5 * (1000 * share * (1 - share)) ** 0.5
        assert all(abs(count - 1000 * share) < bound for count in found.values())


def test_no_context_of_the_embedded_model_tells_of_the_style_left_out() -> None:
    concepts = adp.load_default().concepts
    *styles, last = concepts.styles
    contexts = contexts_in(concepts, styles)
    assert len(set(contexts)) == len(contexts) > 100
    assert not any(last in context.split() or f"{{}}, {last}" == context for context in contexts)


def test_a_start_that_is_stopped_leaves_no_checkpoint(
    one_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    subject = taught(one_encoder, out, checkpointing_steps=1)
    examples = Examples(torch.zeros(1, *subject.model.latent_shape))
    monkeypatch.setattr(subject.word, "project", lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        invert(subject, examples, 3)
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"templates": ["a picture"]}, "'a picture' needs {} once"),
        ({"target": "rocket", "objective": "a:b"}, "target and objective are objectives both"),
        ({"classifier": "folder"}, "set target"),
        ({"num_views": -1}, "num_views must not be negative"),
        ({"num_candidates": -1}, "num_candidates must not be negative"),
        ({"contexts": ["beside it"]}, "contexts: 'beside it' needs {} once"),
        ({"inversion_learning_rate": 0.0}, "inversion_learning_rate must be positive"),
        ({"variable": "style"}, "variable must be one of word, prompt_embeds"),
    ],
)
def test_settings_that_contradict_each_other(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        settings(Path("pipe"), Path("out"), **changes)


def test_what_cannot_be_taught_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing says what pictures are to become"):
        run_embed(settings(tmp_path / "pipe", tmp_path / "out"))
    with pytest.raises(ValueError, match="did you mean pineapple"):
        run_embed(EmbedConfig(output_dir=tmp_path / "out", target="pine apple"))
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        run_embed(settings(tmp_path, tmp_path / "out", target_image=tmp_path / "missing.png"))
    with pytest.raises(ValueError, match="the settings name rocket too"):
        run_embed(settings(tmp_path, tmp_path / "out", target="rocket"), redness)
    assert not (tmp_path / "out").exists()


def test_the_command_needs_an_output_folder_only_and_writes_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ASSETS_VARIABLE, str(write_assets(tmp_path / "assets")))
    out = tmp_path / "out"
    short = ["--max_train_steps", "2", "--num_candidates", "4", "--num_inference_steps", "2"]
    short += [
        "--inversion_steps",
        "2",
        "--num_validation_images",
        "2",
        "--validation_steps",
        "1",
        "--device",
        "cpu",
    ]
    assert main(["embed", "--output_dir", str(out), *short]) == 0
    told = capsys.readouterr().out
    assert f"The word is {out / 'learned_embeds.safetensors'}" in told
    assert "the judge sees it in" in told
    page = (out / "report.html").read_text(encoding="utf-8")
    for target in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert target.startswith(("data:", "#")) or (out / target).is_file(), target
    texts = re.findall(r'<img [^>]*alt="([^"]*)"', page)
    assert len(texts) == len(set(texts)) == 2 * 2
    assert all("the judge calls it" in text for text in texts)
    numbers = json.loads((out / "numbers.json").read_text(encoding="utf-8"))
    assert len(numbers["losses"]) == 2
    errors = {each["name"]: each["relative_error"] for each in numbers["certificate"]["targets"]}
    assert {"noise", "encoder_hidden_states"} <= set(errors)
    assert max(errors.values()) < 1e-6
    assert numbers["templates"] == ["{}, style noto", "{}"]
    assert numbers["validations"][0]["template"] == "{}, flat"
    assert len(list((out / "previews").iterdir())) == 3
