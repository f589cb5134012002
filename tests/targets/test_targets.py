"""Targets by name and by file are classifiers of pictures in [0, 1]."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_pipeline import LABELS, write_classifier
from torch import nn

import adjointdpm as adp
from adjointdpm.objectives import ImageClassifier, Preprocessing
from adjointdpm.targets import TARGETS, imagenet_labels, load_target
from adjointdpm.targets.timm import read_data_config

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("classifier"))


def test_a_folder(folder) -> None:
    target = load_target(folder)
    expected = ImageClassifier.from_pretrained(folder)(IMAGES)
    assert torch.equal(target(IMAGES), expected)
    assert target.labels == LABELS
    assert not any(weight.requires_grad for weight in target.parameters())


@pytest.mark.parametrize("name", ["classifier", "judge"])
def test_the_embedded_ones(name) -> None:
    own = getattr(adp.load_default(), name)
    images = torch.rand(1, 3, 64, 64)
    target = load_target(name)
    assert torch.equal(target(images), own(images))
    assert target.labels == own.labels


MODULE = """
from torch import nn
from adjointdpm.objectives import ImageClassifier

module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
ready = ImageClassifier(module, labels=["red", "green", "blue"])
number = 3

def made():
    return module
"""


def test_modules_of_ones_own(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_target.py").write_text(MODULE)
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    monkeypatch.chdir(tmp_path)
    expected = IMAGES.mean((2, 3))
    for name in ("own_target:module", "own_target:made"):
        target = load_target(name, labels="names.txt")
        torch.testing.assert_close(target(IMAGES), expected)
        assert target.index("blue") == 2
        assert not target.model.training
    scaled = load_target("own_target:made", labels=list("rgb"), preprocessing=lambda x: x / 2)
    torch.testing.assert_close(scaled(IMAGES), expected / 2)
    assert load_target("own_target:ready").labels == ["red", "green", "blue"]
    with pytest.raises(ValueError, match="ImageClassifier, with labels"):
        load_target("own_target:ready", labels=["a"])
    with pytest.raises(ValueError, match="pass labels"):
        load_target("own_target:module")
    with pytest.raises(TypeError, match=r"must give a torch\.nn\.Module"):
        load_target("own_target:number")


def test_what_is_wrong_is_said(folder) -> None:
    with pytest.raises(ValueError, match="none of " + ", ".join(TARGETS)):
        load_target("no-such-target")
    with pytest.raises(ValueError, match="brings its own labels"):
        load_target(folder, labels=LABELS)
    with pytest.raises(ValueError, match="brings its own weights"):
        load_target("judge", weights="file.safetensors")
    with pytest.raises(ValueError, match=r"benchmarks/convert\.py"):
        load_target("efficientnet-lite0")
    with pytest.raises(ValueError, match="pass labels and preprocessing"):
        load_target("net.onnx")


@pytest.mark.parametrize("kind", ["timm:resnet18", "torchvision:resnet18"])
@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_a_missing_package_is_named(kind) -> None:
    with pytest.raises(ImportError, match="not installed: pip install"):
        load_target(kind, weights="w.safetensors")


CONFIG = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.95,
    "crop_mode": "center",
}


def test_data_configs_of_timm() -> None:
    """Against what timm's ``transforms_imagenet_eval`` builds: Resize, CenterCrop, Normalize."""
    read = read_data_config(CONFIG)
    assert (read.size, read.crop, read.resample) == (235, (224, 224), "bicubic")
    assert (read.mean, read.std) == (CONFIG["mean"], CONFIG["std"])
    assert read_data_config({**CONFIG, "crop_mode": "squash"}).size == (235, 235)
    with pytest.raises(ValueError, match="'border'"):
        read_data_config({**CONFIG, "crop_mode": "border"})
    with pytest.raises(ValueError, match="lanczos"):
        read_data_config({**CONFIG, "interpolation": "lanczos"})


@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
def test_torchvision(tmp_path) -> None:
    models = pytest.importorskip("torchvision.models")
    model = models.get_model("resnet18", weights=None).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    target = load_target("torchvision:resnet18", weights=tmp_path / "w.safetensors")
    images = torch.rand(1, 3, 256, 256)
    preset = models.ResNet18_Weights.DEFAULT.transforms()
    torch.testing.assert_close(target(images), model(preset(images)), atol=1e-4, rtol=1e-4)
    assert len(target.labels) == 1000


@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
def test_timm(tmp_path) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18").eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    target = load_target("timm:resnet18", weights=tmp_path / "w.safetensors")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    images = torch.rand(1, 3, 256, 256)
    expected = model(transform.transforms[-1](images[..., 16:240, 16:240]))
    own = Preprocessing((256, 256), (224, 224), CONFIG["mean"], CONFIG["std"])
    torch.testing.assert_close(model(own(images)), expected)
    assert target.labels == imagenet_labels()


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
def test_labels_of_imagenet() -> None:
    labels = imagenet_labels()
    assert len(labels) == 1000
    # Spot checks by the published order.
    assert labels[0] == "tench, Tinca tinca"
    assert labels[281] == "tabby, tabby cat"
    assert labels[999].startswith("toilet tissue")


def test_names_that_two_classes_have() -> None:
    target = ImageClassifier(nn.Identity(), labels=["crane", "heron", "crane"])
    with pytest.raises(ValueError, match=r"2 classes are called 'crane': .* 0 or 2"):
        target.index("crane")
    assert target.index(2) == 2
    assert target.index("heron") == 1


@pytest.mark.skipif(
    find_spec("efficientnet_lite_pytorch") is None,
    reason="efficientnet-lite-pytorch is not installed",
)
def test_efficientnet(tmp_path) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    torch.manual_seed(0)
    model = EfficientNet.from_name("efficientnet-lite0").eval()
    labels = [f"class {i}" for i in range(1000)]
    file = tmp_path / "w.safetensors"
    save_file(model.state_dict(), file, {"labels": json.dumps(labels)})
    target = load_target("efficientnet-lite0", weights=file)
    images = torch.rand(1, 3, 224, 224)
    # As the TensorFlow model takes bytes: (x - 127) / 128.
    as_published = load_target(
        "efficientnet-lite0", weights=file, preprocessing=lambda x: (255 * x - 127) / 128
    )
    torch.testing.assert_close(target(images), model((255 * images - 127) / 128))
    torch.testing.assert_close(target(images), as_published(images))
    assert target.labels == labels
    save_file(model.state_dict(), file)
    with pytest.raises(ValueError, match="names no classes"):
        load_target("efficientnet-lite0", weights=file)
