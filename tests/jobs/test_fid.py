"""The job `fid`: what is drawn is what diffusers draws, whatever the batches."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))
from families_dit import build as build_dit
from tiny_pipeline import build_pipeline

from adjointdpm.cli.arguments import parse
from adjointdpm.cli.main import main
from adjointdpm.evaluation import FeatureStatistics, frechet_distance
from adjointdpm.features import FeatureNetwork
from adjointdpm.jobs.fid import FidConfig, run_fid
from adjointdpm.jobs.fid.pictures import DrawnPictures, FolderPictures
from adjointdpm.report import save_picture

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()).requires_grad_(False)
    return FeatureNetwork(model, ["1"], name="small")


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: Any) -> Path:
    """An unconditional pipeline of pixels, which draws noise and clips."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
    )
    folder = tmp_path_factory.mktemp("pixels")
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    for i in range(6):
        picture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i))
        save_picture(folder / f"{i}.png", picture)
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_pictures_are_those_of_diffusers_from_the_same_seeds(pixels: Path, tmp_path: Path) -> None:
    config = FidConfig(
        tmp_path, pretrained_model_name_or_path=pixels, num_images=5, num_inference_steps=3,
        batch_size=2, seed=7,
    )  # fmt: skip
    drawn = torch.cat(list(DrawnPictures(config, CPU)))
    pipe = DDPMPipeline.from_pretrained(pixels)
    pipe.set_progress_bar_config(disable=True)
    seeds = [torch.Generator().manual_seed(7 + i) for i in range(5)]
    stock = pipe(5, seeds, num_inference_steps=3, output_type="np").images
    assert torch.allclose(drawn, torch.from_numpy(stock).permute(0, 3, 1, 2), atol=2e-5)
    assert torch.allclose(DrawnPictures(config, CPU).draw([3])[0], drawn[3], atol=1e-5)


@pytest.mark.parametrize("how", [{"scheduler": "EulerDiscreteScheduler"}, {"solver": "ab4"}])
def test_drawn_and_compared(
    how: dict[str, Any], pixels: Path, reference: Path, tmp_path: Path, network: FeatureNetwork
) -> None:
    config = FidConfig(
        reference, output_dir=tmp_path / "out", pretrained_model_name_or_path=pixels,
        num_images=6, num_inference_steps=3, save_statistics=True, device="cpu", **how,
    )  # fmt: skip
    result = run_fid(config, network)
    assert result.distance.num_pictures == (6, 6)
    assert result.num_calls is not None
    assert result.num_calls >= 3
    again = FidConfig(
        tmp_path / "out/reference.npz", images=tmp_path / "out/images.npz",
        output_dir=tmp_path / "again", device="cpu",
    )  # fmt: skip
    assert run_fid(again, network).distance == result.distance


def test_files_of_others_give_their_numbers(tmp_path: Path) -> None:
    """Nothing is scaled, whatever the feature network of the settings."""
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randn(9, 4, generator=generator, dtype=torch.float64) * s for s in (3.0, 5.0)]
    for name, values in zip(("images", "reference"), sets, strict=True):
        mu, sigma = values.mean(0).numpy(), values.T.cov().numpy()
        np.savez(tmp_path / f"{name}.npz", mu=mu, sigma=sigma)
    config = FidConfig(
        tmp_path / "reference.npz", images=tmp_path / "images.npz",
        output_dir=tmp_path / "out", device="cpu",
    )  # fmt: skip
    first, second = (FeatureStatistics.of(values) for values in sets)
    assert run_fid(config).distance.fid == pytest.approx(frechet_distance(first, second))


def test_prompts_are_taken_in_turn(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    build_pipeline(tmp_path / "parts").save_pretrained(tmp_path / "pipe")
    (tmp_path / "prompts.txt").write_text("a\n\nb c\n")
    given: dict[str, Any] = {
        "pretrained_model_name_or_path": tmp_path / "pipe", "num_images": 3,
        "num_inference_steps": 2, "guidance_scale": 2.0,
    }  # fmt: skip
    with pytest.raises(ValueError, match="set prompts"):
        DrawnPictures(FidConfig(tmp_path, **given), CPU)
    pictures = DrawnPictures(FidConfig(tmp_path, prompts=tmp_path / "prompts.txt", **given), CPU)
    assert pictures.prompts == ["a", "b c"]
    assert torch.allclose(torch.cat(list(pictures))[2], pictures.draw([2])[0], atol=1e-5)


def test_classes_are_all_by_default(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    pipe = build_dit(tmp_path / "parts")
    pipe.save_pretrained(tmp_path / "pipe")
    config = FidConfig(
        tmp_path, pretrained_model_name_or_path=tmp_path / "pipe", num_inference_steps=1
    )
    pictures = DrawnPictures(config, CPU)
    assert pictures.prompts == list(range(pipe.transformer.config.num_embeds_ada_norm))
    assert pictures.draw([0, 1]).shape[:2] == (2, 3)


def test_folders_of_mixed_sizes(reference: Path, tmp_path: Path) -> None:
    for i, side in enumerate((8, 8, 12, 8)):
        save_picture(tmp_path / f"{i}.png", torch.rand(3, side, side))
    assert [len(batch) for batch in FolderPictures(tmp_path, 4)] == [2, 1, 1]
    assert [len(batch) for batch in FolderPictures(reference, 4)] == [4, 2]
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        FolderPictures(_empty(tmp_path), 4)
    with pytest.raises(FileNotFoundError, match="neither a folder"):
        FolderPictures(tmp_path / "nowhere", 4)


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def test_command(reference: Path, tmp_path: Path, capsys: Any) -> None:
    """The embedded model, by all of its captions."""
    arguments = ["--reference", str(reference), "--output_dir", str(tmp_path / "out")]
    arguments += ["--num_images", "4", "--num_inference_steps", "1", "--device", "cpu"]
    assert main(["fid", *arguments]) == 0
    assert "FID" in capsys.readouterr().out
    numbers = json.loads((tmp_path / "out/numbers.json").read_text())
    assert numbers["distance"]["feature_network"] == "embedded judge"
    assert numbers["num_calls"] == 1
    page = (tmp_path / "out/report.html").read_text()
    assert "The first pictures" in page
    assert main(["fid", "--reference", str(tmp_path / "nowhere"), *arguments[2:]]) == 1


def test_the_settings_of_cifar_10_are_read() -> None:
    path = Path(__file__).parents[2] / "configs/cifar10-fid.yaml"
    config = parse("adjointdpm fid", "", FidConfig, ["--config", str(path)])
    assert config.num_images == 50000
    assert config.resizing == "legacy_tensorflow"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheduler": "a", "solver": "b"}, "set one of them"),
        ({"images": "x", "solver": "ddim"}, "solver is for drawing"),
        ({"feature_network": "inception-v3"}, "feature_weights"),
        ({"num_images": 1}, "at least 2"),
        ({"resizing": "area"}, "legacy_pytorch"),
    ],
)
def test_settings_that_contradict(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FidConfig("reference", **settings)


def test_schedulers_that_there_are_not(pixels: Path, tmp_path: Path) -> None:
    config = FidConfig(tmp_path, pretrained_model_name_or_path=pixels, scheduler="UNet2DModel")
    with pytest.raises(ValueError, match="no scheduler 'UNet2DModel'; it has"):
        DrawnPictures(config, CPU)
    (tmp_path / "p.txt").write_text("a")
    config = FidConfig(tmp_path, pretrained_model_name_or_path=pixels, prompts=tmp_path / "p.txt")
    with pytest.raises(ValueError, match="unconditional: leave prompts out"):
        DrawnPictures(config, CPU)
