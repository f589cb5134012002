"""The job `guide`: on pipelines that differ, by any objective, and what its files are good for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))
from families_stable_diffusion_3 import build as build_sd3
from families_stable_diffusion_xl import build as build_sdxl
from tiny_pipeline import build_pipeline, drawn_from, write_assets

from adjointdpm import (
    StepGuidance,
    Truncated,
    encode_prompt,
    formats,
    from_pipeline,
    guided_sample,
    latent_shape,
    load_pipeline,
)
from adjointdpm.assets import ASSETS_VARIABLE
from adjointdpm.cli.main import main
from adjointdpm.jobs.guide import GuideConfig, run_guide, write_guide_report
from adjointdpm.setup import one_step_sampler
from adjointdpm.variables import project_to_typical

BUILD = {
    "StableDiffusion": build_pipeline,
    "StableDiffusionXL": build_sdxl,
    "StableDiffusion3": build_sd3,
    "ancestral": lambda folder: build_pipeline(folder, EulerAncestralDiscreteScheduler()),
}
SETTINGS: dict[str, Any] = {
    "prompt": "a b",
    "num_inference_steps": 3,
    "num_images": 2,
    "max_train_steps": 4,
    "num_views": 0,
    "device": "cpu",
    "progress_bar": False,
}


def darkness(images: Tensor) -> Tensor:
    return -images.mean((1, 2, 3))


darkness.larger_is_better = True  # type: ignore[attr-defined]


@pytest.fixture(params=BUILD)
def saved(request: Any, tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    BUILD[request.param](tmp_path / "parts").save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


def guided_by_hand(saved: Path) -> Tensor:
    """Return the pictures that guidance step by step makes of the first noises."""
    pipe = load_pipeline(saved)
    sampler, decode = from_pipeline(pipe, 3, 1.0)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(latent_shape(pipe, 2), generator=generator)
    sample = guided_sample(
        one_step_sampler(sampler),
        project_to_typical(noise),
        lambda latents: -darkness(decode(latents)),
        StepGuidance(strength=2.0, inner_steps=2),
        **encode_prompt(pipe, ["a b"] * 2, guidance=False),
    )
    with torch.no_grad():
        return decode(sample)


@pytest.mark.parametrize("method", ["noise", "steps"])
def test_pipelines_of_any_family(saved: Path, tmp_path: Path, method: Any) -> None:
    config = GuideConfig(
        pretrained_model_name_or_path=saved,
        output_dir=tmp_path / "out",
        method=method,
        strength=2.0,
        inner_steps=2,
        learning_rate=1e-3,  # so small that every update goes downhill, whatever the weights
        **SETTINGS,
    )
    result = run_guide(config, darkness)
    assert result.larger_is_better
    for ending in (result.before, result.after):
        assert ending.metric == darkness(ending.images).tolist()
    page = write_guide_report(result, "adjointdpm guide").read_text()
    assert "a b" in page
    assert len(list((tmp_path / "out").glob("picture-*.png"))) == 4
    if method == "steps":
        assert result.noise_file is None
        assert len(result.losses) == config.num_inference_steps
        torch.testing.assert_close(result.after.images, guided_by_hand(saved), rtol=0, atol=1e-5)
        return
    assert result.losses[0] == pytest.approx(-sum(result.before.metric) / 2)
    assert sorted(result.losses, reverse=True) == result.losses
    assert -sum(result.after.metric) / 2 < result.losses[-1]
    noise = formats.load_noise(tmp_path / "out" / "noise.safetensors")
    assert (noise.draws is not None) == ("draws=" in page)
    pipe = load_pipeline(saved, dtype=torch.float32)
    if noise.draws is None:
        pipe.set_progress_bar_config(disable=True)
        images = drawn_from(noise, pipe)
    else:
        sampler, decode = from_pipeline(pipe, noise.num_inference_steps, noise.guidance_scale)
        cond = encode_prompt(pipe, noise.prompt, guidance=False)
        images = decode(sampler(noise.noise, draws=noise.draws, **cond))
    torch.testing.assert_close(images, result.after.images, rtol=0, atol=1e-4)


def test_the_gradient_is_by_the_method_that_was_passed(tmp_path: Path) -> None:
    """Truncated to all calls it is the exact one; to the last one it is another."""
    (tmp_path / "parts").mkdir()
    build_pipeline(tmp_path / "parts").save_pretrained(tmp_path / "pipe")

    def losses(name: str, gradient: Truncated | None) -> list[float]:
        config = GuideConfig(
            pretrained_model_name_or_path=tmp_path / "pipe", output_dir=tmp_path / name, **SETTINGS
        )
        return run_guide(config, darkness, gradient=gradient).losses

    exact = losses("exact", None)
    assert losses("all", Truncated(3, "detach_outputs")) == pytest.approx(exact, rel=1e-4)
    assert losses("last", Truncated(1, "detach_outputs")) != pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("method", ["noise", "steps"])
def test_the_command_on_the_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    assets = write_assets(tmp_path / "assets")
    monkeypatch.setenv(ASSETS_VARIABLE, str(assets))
    labels = [c["label"] for c in json.loads((assets / "concepts.json").read_text())["concepts"]]
    flags = ["--target", labels[1], "--prompt", "thing, style noto", "--max_train_steps", "2"]
    flags += ["--num_inference_steps", "2", "--num_images", "2", "--method", method]
    assert main(["guide", "--output_dir", str(tmp_path / "out"), *flags]) == 0
    numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert len(numbers["before"]["readings"]) == len(numbers["after"]["readings"]) == 2
    assert numbers["certificate"]["targets"][0]["relative_error"] < 1e-6
    assert "Is the gradient right?" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": "a", "objective": "m:f"}, "objectives both"),
        ({"classifier": "folder"}, "set target"),
        ({"method": "magic"}, "method must be one of"),
        ({"negative_prompt": "b"}, "guidance_scale above 1"),
        ({"pretrained_model_name_or_path": "p", "prompt": None}, "set prompt"),
        ({"num_views": -1}, "num_views"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GuideConfig(**{**SETTINGS, **settings})


def test_nothing_to_optimise_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    config = GuideConfig(
        pretrained_model_name_or_path="no/model", output_dir=tmp_path / "out", **SETTINGS
    )
    with pytest.raises(ValueError, match="nothing says what pictures are to become"):
        run_guide(config)
    assert not (tmp_path / "out").exists()
