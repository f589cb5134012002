"""The job `certify`, on pipelines whose conditioning and latents differ."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "pipelines"))
from families_stable_diffusion_3 import build as build_sd3
from families_stable_diffusion_xl import build as build_sdxl
from tiny_pipeline import build_pipeline

from adjointdpm.jobs.certify import CertifyConfig, run_certify

BUILD = {
    "StableDiffusion": (build_pipeline, {"encoder_hidden_states"}),
    "StableDiffusionXL": (build_sdxl, {"encoder_hidden_states", "added_cond_kwargs.text_embeds"}),
    "StableDiffusion3": (build_sd3, {"encoder_hidden_states", "pooled_projections"}),
}


@pytest.fixture(params=BUILD)
def saved(request: Any, tmp_path: Path) -> tuple[Path, set[str]]:
    build, names = BUILD[request.param]
    (tmp_path / "parts").mkdir()
    build(tmp_path / "parts").save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe", names


def test_pipelines_of_any_family_are_certified(saved: tuple[Path, set[str]]) -> None:
    folder, names = saved
    config = CertifyConfig(
        pipeline=folder, prompt="a b", num_inference_steps=2, num_directions=1, device="cpu"
    )
    certificate = run_certify(config)
    found = {target.name for target in certificate.targets}
    assert found >= {"noise", *names, *(f"negative_{name}" for name in names)}
    assert certificate.passed, str(certificate)
    for target in certificate.targets:
        assert target.relative_error < 1e-6
        assert target.difference_error < 1e-4
    coarse = run_certify(
        CertifyConfig(
            pipeline=folder,
            method="truncated",
            num_steps=1,
            prompt="a b",
            num_inference_steps=2,
            num_directions=1,
            device="cpu",
        )
    )
    assert not coarse.passed
