"""The job `stylize`: on pipelines whose conditioning and networks differ, and from its files."""

from __future__ import annotations

import html
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, EulerAncestralDiscreteScheduler
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))
from families_pixart import build_sigma as build_pixart
from families_stable_diffusion_3 import build as build_sd3
from families_stable_diffusion_xl import build as build_sdxl
from tiny_pipeline import build_pipeline, write_assets

from adjointdpm import encode_prompt, freeze, from_pipeline, latent_shape, load_pipeline
from adjointdpm.assets import ASSETS_VARIABLE, assets_folder, read_concepts
from adjointdpm.cli.main import main
from adjointdpm.features import FeatureNetwork
from adjointdpm.jobs.stylize import (
    Stylization,
    StylizeConfig,
    run_stylize,
    write_stylize_report,
)
from adjointdpm.jobs.stylize.goal import balanced_style, load_network
from adjointdpm.jobs.stylize.model import StylizedModel
from adjointdpm.jobs.stylize.prompts import choose_prompts
from adjointdpm.jobs.stylize.run import restyle
from adjointdpm.objectives import GramStyle, as_objective, feature_distance
from adjointdpm.setup import load_model

pytest.importorskip("peft")

BUILD = {"StableDiffusion": build_pipeline, "SDXL": build_sdxl, "SD3": build_sd3}
PROMPTS = {"prompts": ["a b", "b c"], "validation_prompts": ["a c"]}


def brightness(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


brightness.larger_is_better = True


@pytest.fixture(scope="module", params=BUILD)
def saved(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "parts").mkdir()
    BUILD[request.param](folder / "parts").save_pretrained(folder / "pipe")
    return folder / "pipe"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    build_pipeline(folder).save_pretrained(folder / "pipe")
    return folder / "pipe"


def small(folder: Path, pipe: Path, **settings: Any) -> StylizeConfig:
    usual: dict[str, Any] = {
        "output_dir": folder,
        "pretrained_model_name_or_path": pipe,
        "max_train_steps": 2,
        "num_inference_steps": 2,
        "train_batch_size": 2,
        "num_validation_images": 2,
        "rank": 2,
        "feature_network": "classifier",
        "device": "cpu",
        "progress_bar": False,
        **PROMPTS,
    }
    return StylizeConfig(**{**usual, **settings})


def test_what_is_saved_draws_the_same_in_the_stock_pipeline(saved: Path, tmp_path: Path) -> None:
    config = small(tmp_path / "run", saved, learning_rate=0.05, guidance_scale=2.0)
    result = run_stylize(config)
    assert result.file == tmp_path / "run" / "pytorch_lora_weights.safetensors"
    first = result.comparisons[0]
    assert (first.after - first.before).abs().max() > 1e-3
    stock = freeze(DiffusionPipeline.from_pretrained(saved))
    stock.load_lora_weights(tmp_path / "run")
    for when, pipe in (("after", stock), ("before", load_pipeline(saved))):
        sampler, decode = from_pipeline(pipe, 2, 2.0)
        noise = torch.Generator().manual_seed(config.seed + 1_000_000)
        latents = torch.randn(2, *latent_shape(pipe)[1:], generator=noise)
        with torch.no_grad():
            drawn = decode(sampler(latents, **encode_prompt(pipe, ["a c"] * 2)))
        for each, image in zip(result.comparisons, drawn, strict=True):
            torch.testing.assert_close(getattr(each, when), image, atol=1e-5, rtol=0)


def test_any_objective_is_followed_in_its_direction(tiny: Path, tmp_path: Path) -> None:
    drawn: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        if images.requires_grad:
            drawn.append(images.detach())
        return brightness(images)

    watched.larger_is_better = True
    config = small(tmp_path / "run", tiny, content_weight=0.0, validation_steps=2)
    result = run_stylize(config, watched)
    assert result.larger_is_better
    assert (tmp_path / "run" / "previews" / "step-000002.png").is_file()
    assert result.style == "watched"
    losses = [-brightness(images).mean().item() for images in drawn]
    assert result.history.losses == pytest.approx(losses, rel=1e-6)
    for each in result.comparisons:
        assert each.style_before == pytest.approx(brightness(each.before[None]).item())
        assert each.style_after == pytest.approx(brightness(each.after[None]).item())
    with pytest.raises(ValueError, match="leave one of them out"):
        run_stylize(small(tmp_path / "other", tiny, objective="module:name"), watched)


@pytest.mark.parametrize("content_weight", [0.0, 1.0])
def test_a_small_update_goes_downhill(tiny: Path, tmp_path: Path, content_weight: float) -> None:
    """On the very noises that it was computed from, which are the first in every run."""
    config = small(tmp_path, tiny, max_train_steps=1, learning_rate=1e-4)
    model = StylizedModel(config, load_model(config, torch.device("cpu")))
    for weight in model.weights.tensors.values():
        weight.data.add_(0.05 * torch.randn_like(weight))
    goal = Stylization(as_objective(brightness), load_network(config), content_weight)
    (before,), (after,) = (restyle(model, goal, ["a b", "b c"]).losses for _ in range(2))
    assert after < before


@pytest.mark.parametrize(
    "scheduler", [None, EulerAncestralDiscreteScheduler()], ids=["deterministic", "ancestral"]
)
def test_content_is_that_of_the_pictures_before_any_update(scheduler: Any, tmp_path: Path) -> None:
    build_pipeline(tmp_path, scheduler).save_pretrained(tmp_path / "pipe")
    config = small(tmp_path, tmp_path / "pipe", learning_rate=0.03)
    drawn: list[Tensor] = []

    class Watched(Stylization):
        def forward(self, images: Tensor, base: Tensor, generator: Any = None) -> Tensor:
            drawn.append(torch.stack([images.detach(), base]))
            return super().forward(images, base, generator)

    bases = []
    for content_weight in (0.0, 1e4):
        drawn.clear()
        model = StylizedModel(config, load_model(config, torch.device("cpu")))
        goal = Watched(as_objective(brightness), load_network(config), content_weight)
        losses = restyle(model, goal, ["a b", "b c"]).losses
        (first, base), (second, _) = drawn
        torch.testing.assert_close(first, base)
        assert not torch.equal(second, first)
        style = [-brightness(images).mean().item() for images, _ in drawn]
        content = [goal.content_distance(*pair).mean().item() for pair in drawn]
        expected = [s + content_weight * c for s, c in zip(style, content, strict=True)]
        assert losses == pytest.approx(expected, rel=1e-5)
        bases.append(torch.stack([base for _, base in drawn]))
    torch.testing.assert_close(*bases)


def test_an_adapter_that_no_pipeline_could_load_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    build_pixart(tmp_path / "parts").save_pretrained(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"loads no LoRA .* \(trainable\)"):
        run_stylize(small(tmp_path / "run", tmp_path / "pipe"), brightness)
    assert not (tmp_path / "run").exists()


def test_parts_of_the_pipeline_in_place_of_an_adapter(tiny: Path, tmp_path: Path) -> None:
    config = small(tmp_path / "run", tiny, trainable=["unet.conv_out"])
    result = run_stylize(config, brightness)
    assert result.file == tmp_path / "run" / "unet"
    pipe = load_pipeline(tiny)
    trained = type(pipe.unet).from_pretrained(result.file).state_dict()
    changed = {n for n, w in pipe.unet.state_dict().items() if not torch.equal(w, trained[n])}
    assert changed == {"conv_out.weight", "conv_out.bias"}
    page = html.unescape(write_stylize_report(result, "").read_text())
    assert 'pipe.unet = type(pipe.unet).from_pretrained("unet")' in page


def test_a_run_goes_on_where_it_was_stopped(tiny: Path, tmp_path: Path) -> None:
    steady = {"lr_scheduler": "constant", "checkpointing_steps": 1, "learning_rate": 0.03}
    whole = run_stylize(small(tmp_path / "whole", tiny, max_train_steps=2, **steady))
    run_stylize(small(tmp_path / "half", tiny, max_train_steps=1, **steady))
    steady |= {"max_train_steps": 2, "resume_from_checkpoint": "latest"}
    rest = run_stylize(small(tmp_path / "half", tiny, **steady))
    assert rest.history.losses == whole.history.losses
    for one, other in zip(whole.comparisons, rest.comparisons, strict=True):
        assert torch.equal(one.before, other.before)
        assert torch.equal(one.after, other.after)


def test_the_goal_is_style_and_content() -> None:
    network = FeatureNetwork(torch.nn.Conv2d(3, 4, 3), [""])
    first, second, style = torch.rand(3, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    gram = GramStyle(network, style[0])
    goal = Stylization(gram, network, 0.7)
    content = feature_distance(network(first), network(second))
    torch.testing.assert_close(goal(first, second), gram(first) + 0.7 * content)
    torch.testing.assert_close(goal(first, first), gram(first))
    torch.testing.assert_close(
        Stylization(gram, network, 0.7, 2.0)(first, second), gram(first) / 2 + 0.7 * content
    )
    brighter = Stylization(as_objective(brightness), network, 0.0)
    torch.testing.assert_close(brighter(first, second), -brightness(first))


def test_layers_of_a_style_count_alike_at_the_start() -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3)
    )
    network = FeatureNetwork(layers, ["0", "2"])
    style, *base = torch.rand(5, 3, 8, 8)
    pictures = torch.stack(base)
    balanced = balanced_style(network, style, pictures)
    shares = [
        balanced.weights[name] * GramStyle(network.at([name]), style)(pictures).mean()
        for name in network.layers
    ]
    torch.testing.assert_close(*shares)
    torch.testing.assert_close(sum(shares), balanced(pictures).mean())


def test_prompts_of_the_report_are_never_trained_on() -> None:
    concepts = read_concepts(assets_folder() / "concepts.json")
    for known in (concepts, None):
        prompts, labels = choose_prompts(StylizeConfig(), known)
        assert len(prompts) == len(set(prompts))
        assert not set(prompts) & set(labels)
    words = {p.rsplit(",", 1)[0] for p in choose_prompts(StylizeConfig(), concepts)[0]}
    unseen = choose_prompts(StylizeConfig(), concepts)[1]
    assert not words & {prompt.rsplit(",", 1)[0] for prompt in unseen}
    assert all(unseen.values())
    one = StylizeConfig(prompts=["a b"])
    assert choose_prompts(one, concepts)[0] == ["a b"]
    every = StylizeConfig(prompts=[*unseen])
    with pytest.raises(ValueError, match="set validation_prompts"):
        choose_prompts(every, concepts)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"content_weight": -1.0}, "content_weight must not be negative"),
        ({"prompts": []}, "prompts must name at least one"),
        ({"prompts": ["a"], "validation_prompts": ["a"]}, "'a' is among prompts"),
        ({"objective": "a:b", "style_image": "c.png"}, "set one of them"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StylizeConfig(**settings)


def test_a_style_picture_that_is_missing_is_told_before_the_work() -> None:
    with pytest.raises(FileNotFoundError, match=r"style_image missing\.png"):
        StylizeConfig(style_image="missing.png")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv(ASSETS_VARIABLE, str(write_assets(tmp_path / "assets")))
    Image.new("RGB", (40, 30), "orange").save(tmp_path / "style.png")
    layers = '["model.resnet.embedder.embedder"]'
    settings = {
        "output_dir": tmp_path / "run",
        "style_image": tmp_path / "style.png",
        "feature_network": "classifier",
        "style_layers": layers,
        "content_layers": layers,
        "prompts": '["rocket, style noto"]',
        "validation_prompts": '["apple, style noto", "b"]',
        "num_validation_images": 5,
        "num_inference_steps": 2,
        "max_train_steps": 2,
        "train_batch_size": 2,
        "device": "cpu",
    }
    status = main(["stylize", *(f"--{name}={value}" for name, value in settings.items())])
    assert status == 0
    assert "Open" in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files >= {
        "pytorch_lora_weights.safetensors",
        "README.md",
        "report.html",
        "numbers.json",
        "before-after.png",
        "style.png",
    }
    numbers = json.loads((tmp_path / "run" / "numbers.json").read_text())
    assert numbers["config"]["style_image"] == str(tmp_path / "style.png")
    assert [each["before"] is None for each in numbers["comparisons"]] == [False, True] * 2 + [
        False
    ]
    errors = {each["name"]: each["relative_error"] for each in numbers["certificate"]["targets"]}
    assert {"noise", "weights"} <= set(errors)
    assert max(errors.values()) < 1e-6
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Is the gradient right?" in page
    assert page.count("<img") == 1 + 2 * 5
    assert "load_lora_weights" in page
    assert "style.png" in page
