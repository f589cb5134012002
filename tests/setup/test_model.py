"""The model of a job: a noise has one picture, and the code of a report draws it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, LCMScheduler

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))
from families_flux import build as build_flux
from families_stable_diffusion_3 import build as build_sd3
from tiny_pipeline import build_pipeline

import adjointdpm as adp
from adjointdpm.formats import Noise, save_noise
from adjointdpm.setup import Model, SamplerConfig, drawing_code, load_model

BUILD: dict[str, Callable[[Path], Any]] = {
    "StableDiffusion": lambda folder: build_pipeline(folder, EulerDiscreteScheduler()),
    "ancestral": lambda folder: build_pipeline(folder, EulerAncestralDiscreteScheduler()),
    "LCM": lambda folder: build_pipeline(folder, LCMScheduler()),
    "StableDiffusion3": build_sd3,
    "Flux": build_flux,
}
STOCHASTIC = ("ancestral", "LCM")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    @functools.cache
    def load(name: str) -> Model:
        folder = tmp_path_factory.mktemp(name)
        BUILD[name](folder).save_pretrained(folder / "pipe")
        config = SamplerConfig(folder / "pipe", num_inference_steps=3, guidance_scale=2.0)
        model = load_model(config, torch.device("cpu"))
        model.pipe.set_progress_bar_config(disable=True)
        assert (model.sampler.plan.num_draws > 0) == (name in STOCHASTIC)
        return model

    return load


@pytest.mark.parametrize(
    ("name", "negative", "by_single_steps"),
    [
        ("StableDiffusion", None, False),
        ("StableDiffusion", "c d", False),
        ("StableDiffusion", "c d", True),
        ("StableDiffusion3", "c d", False),
        ("ancestral", "c d", False),
        ("ancestral", None, True),
        ("LCM", None, False),
        ("Flux", None, False),
    ],
)
def test_the_code_of_a_report_draws_the_pictures(
    loaded: Callable[[str], Model],
    name: str,
    negative: str | None,
    by_single_steps: bool,
    tmp_path: Path,
) -> None:
    model = loaded(name)
    if by_single_steps:
        model = model.by_single_steps()
    noise = model.noise(2, torch.Generator().manual_seed(0))
    moved = (noise + 0.1).requires_grad_()
    on_the_way = model.on_the_way(noise)
    with torch.no_grad():
        cond = model.encode(["a b", "b a"], negative)
        expected = model.decode(model.sampler(moved, generator=on_the_way, **cond))
    saved = Noise(
        moved.detach(),
        draws=model.draws(noise),
        num_inference_steps=3,
        guidance_scale=2.0,
        prompt=["a b", "b a"],
        negative_prompt=None if negative is None else [negative] * 2,
    )
    file = save_noise(tmp_path / "noise.safetensors", saved)
    names: dict[str, Any] = {"adp": adp, "pipe": model.pipe, "saved": adp.formats.load_noise(file)}
    exec(drawing_code(model, negative), names)
    images = names["images"]
    if isinstance(images, list):  # the stock pipeline's, of 8 bits
        pixels = np.stack([np.asarray(image) for image in images])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(images.detach(), expected, rtol=0, atol=0.51 / 255)


@pytest.mark.parametrize("name", ["StableDiffusion", *STOCHASTIC])
@torch.no_grad()
def test_a_noise_has_one_picture(loaded: Callable[[str], Model], name: str) -> None:
    model = loaded(name)
    noise = model.noise(3, torch.Generator().manual_seed(0))
    cond = model.encode(["a b"] * 3)
    samples = model.sample(noise, **cond)
    assert torch.equal(model.sample(noise, **cond), samples)
    alone = model.sample(noise[1:2], **model.encode(["a b"]))
    torch.testing.assert_close(alone[0], samples[1], rtol=1e-4, atol=1e-4)
