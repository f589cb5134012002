"""Preprocessing is the image processor's of transformers.

Pillow rounds to 8 bits after each of its two passes. That apart, processors are met to 1e-5: their
own code is run with Pillow's filters on floating-point channels in place of 8-bit ones.
"""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import image_processing_backends

from adjointdpm.features import Preprocessing
from adjointdpm.features.image_processor import SHORTEST_EDGE, SQUARE


def processor(kind: str, **config):
    # Older transformers have some of them for torchvision only.
    module = pytest.importorskip(
        f"transformers.models.{kind}.image_processing_pil_{kind}", exc_type=ImportError
    )
    names = [name for name in module.__all__ if name.endswith("ImageProcessorPil")]
    if not names:
        pytest.skip("this transformers has it for torchvision only")
    return getattr(module, names[0])(**config)


AS_THEY_COME = [
    ("beit", {}),
    ("bit", {}),  # that of DINOv2
    ("bit", {"size": {"shortest_edge": 256}}),  # as DINOv2 is published
    ("blip", {}),
    ("chinese_clip", {}),
    ("clip", {}),
    ("convnext", {}),  # and of ResNet, RegNet and ConvNeXt V2
    ("convnext", {"size": {"shortest_edge": 224}}),
    ("deit", {}),
    ("efficientnet", {}),
    ("efficientnet", {"rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False}),
    ("efficientnet", {"do_normalize": False, "resample": 0}),
    ("levit", {}),
    ("mobilenet_v1", {}),
    ("mobilenet_v2", {}),
    ("owlvit", {}),
    ("poolformer", {}),
    ("poolformer", {"size": {"height": 224, "width": 224}, "crop_pct": 0.95}),
    ("pvt", {}),
    ("siglip", {}),
    ("vit", {}),  # and of Swin
    ("vit", {"size": 224}),
    ("clip", {"size": 224}),
    ("clip", {"size": {"shortest_edge": 30}, "crop_size": {"height": 28, "width": 60}}),
    ("clip", {"do_rescale": False}),
    ("vit", {"do_resize": False}),
    ("vit", {"do_resize": False, "do_normalize": False}),
]


def pixels_of(height: int, width: int, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (height, width, 3), dtype=np.uint8)


def both(
    kind: str, config: dict, pixels: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, Preprocessing]:
    reference = processor(kind, **config)
    expected = reference(Image.fromarray(pixels), return_tensors="pt").pixel_values
    ours = Preprocessing.from_config(json.loads(reference.to_json_string()) | config)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255
    return ours(images), expected, ours


def resize_in_float(image, size, resample=None, **_) -> np.ndarray:
    """What `transformers.image_transforms.resize` does, without the rounding to 8 bits."""
    channels = [
        Image.fromarray(channel.astype(np.float32)).resize(size[::-1], resample)
        for channel in image
    ]
    return np.stack([np.array(channel) for channel in channels])


@pytest.mark.parametrize(("kind", "config"), AS_THEY_COME)
@pytest.mark.parametrize("shape", [(300, 240), (64, 90)], ids=["smaller", "larger"])
def test_processors_are_met_to_1e_5(kind, config, shape, monkeypatch) -> None:
    monkeypatch.setattr(image_processing_backends, "np_resize", resize_in_float)
    ours, expected, _ = both(kind, config, pixels_of(*shape))
    assert ours.shape == expected.shape
    largest = expected.abs().max()
    assert (ours - expected).abs().max() < 1e-5 * max(1, largest)


@pytest.mark.parametrize(("kind", "config"), AS_THEY_COME)
def test_with_pillows_rounding_processors_are_met_to_that_rounding(kind, config) -> None:
    """Half a level a pass; bicubic filters, whose weights sum to at most 1.25, amplify the first.

    Pillow's weights themselves are rounded to a few bits, which the last hundredths are for. The
    middle of the range, since it also clips what bicubic filters overshoot between the passes.
    """
    ours, expected, preprocessing = both(kind, config, pixels_of(300, 240, 90, 160))
    levels = {"nearest": 0.0, "bilinear": 1.0, "bicubic": 1.125}[preprocessing.resample] + 0.05
    level = preprocessing.scale / 255 / min(preprocessing.std)
    assert (ours - expected).abs().max() <= levels * level


def test_every_known_kind_is_compared() -> None:
    tested = {kind.replace("_", "") for kind, _ in AS_THEY_COME}
    assert tested == SHORTEST_EDGE | SQUARE


@given(st.integers(8, 40), st.integers(8, 40), st.integers(8, 40), st.booleans())
@settings(max_examples=30, deadline=None)
def test_any_size(height, width, edge, bicubic) -> None:
    config = {"size": {"shortest_edge": edge}, "crop_size": {"height": 2 * (edge // 2), "width": 8}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_processing_backends, "np_resize", resize_in_float)
        ours, expected, _ = both(
            "clip", config | {"resample": 3 if bicubic else 2}, pixels_of(height, width)
        )
    torch.testing.assert_close(ours.float(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("resample", ["nearest", "bilinear", "bicubic"])
def test_it_has_its_gradient(resample) -> None:
    images = torch.rand(1, 3, 7, 9, dtype=torch.float64, requires_grad=True)
    preprocessing = Preprocessing(size=5, crop=(4, 6), std=(0.2, 0.3, 0.4), resample=resample)
    assert torch.autograd.gradcheck(preprocessing, images, fast_mode=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"resample": 1, "size": {"shortest_edge": 3}}, "filter 1"),
        ({"size": {"shortest_edge": 3}}, "filter None"),
        ({"resample": 2, "size": {"longest_edge": 3}}, "size"),
        ({"resample": 2, "size": {"shortest_edge": 3, "longest_edge": 5}}, "size"),
        ({"resample": 2, "size": 3}, "shortest edge or a square"),
        ({"resample": 2, "size": {"shortest_edge": 3}, "crop_pct": 0.9}, "crop_pct has two"),
        ({"do_resize": False, "image_mean": None}, "no image_mean"),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "Siglip2ImageProcessor does is not"),
        ({"image_processor_type": "ViTImageProcessor", "do_pad": True}, "pads"),
    ],
)
def test_what_it_cannot_do_is_refused(config, message) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing.from_config({"image_mean": [0] * 3, "image_std": [1] * 3, **config})


def test_a_file_that_is_missing_and_pictures_of_another_shape(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"preprocessor_config\.json is missing"):
        Preprocessing.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must have the shape"):
        Preprocessing()(torch.zeros(3, 8, 8))
