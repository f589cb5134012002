"""Preprocessing is the image processor's."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from adjointdpm.features import Preprocessing


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessorPil(size={"height": 24, "width": 32}),
        ViTImageProcessorPil(size={"height": 100, "width": 90}, resample=3),
        CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size={"height": 28, "width": 20}),
        CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size={"height": 28, "width": 60}),
        ConvNextImageProcessorPil(size={"shortest_edge": 28}, crop_pct=0.875),
        ConvNextImageProcessorPil(size={"shortest_edge": 384}, resample=2),
        ViTImageProcessorPil(do_resize=False, do_normalize=False),
    ],
)
def test_preprocessing_is_the_processors(processor):
    # In the middle of the range, since Pillow clips what bicubic overshoots between its passes.
    pixels = np.random.default_rng(0).integers(90, 160, (40, 56, 3), dtype=np.uint8)
    expected = processor(Image.fromarray(pixels), return_tensors="pt").pixel_values
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    ours = Preprocessing.from_config(json.loads(processor.to_json_string()))(images)
    assert ours.shape == expected.shape
    rounding = 1.6 / 255 / min(processor.image_std or [1.0])
    assert (ours - expected).abs().max() < rounding


def test_preprocessing_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(ValueError, match="filter 1"):
        Preprocessing.from_config({"resample": 1, "image_mean": [0], "image_std": [1]})
    with pytest.raises(ValueError, match="size"):
        Preprocessing.from_config({"size": {"longest_edge": 3}})
    with pytest.raises(FileNotFoundError, match=r"preprocessor_config\.json is missing"):
        Preprocessing.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must have the shape"):
        Preprocessing()(torch.zeros(3, 8, 8))
