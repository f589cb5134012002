"""Preprocessing is the image processor's, and the metrics are what they say."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipeline import LABELS, write_classifier
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from adjointdpm.objectives import (
    ClassifierLogProbability,
    ImageClassifier,
    PictureDistance,
    Preprocessing,
    RandomViews,
)


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


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return ImageClassifier.from_pretrained(write_classifier(tmp_path_factory.mktemp("classifier")))


def test_log_probability(classifier):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    metric = ClassifierLogProbability(classifier, LABELS[1])
    expected = classifier.model(images * 2 - 1).logits.softmax(1)[:, 1].log()
    torch.testing.assert_close(metric(images), expected)
    torch.testing.assert_close(ClassifierLogProbability(classifier, 1)(images), expected)
    both = ClassifierLogProbability(classifier, [LABELS[1], LABELS[0]])(images)
    torch.testing.assert_close(both[0], expected[0])
    assert both[1] != expected[1]
    with pytest.raises(ValueError, match="2 targets for 3 pictures"):
        ClassifierLogProbability(classifier, [0, 1])(torch.rand(3, 3, 16, 16))


def test_log_probability_has_a_gradient(classifier):
    images = torch.rand(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    metric = ClassifierLogProbability(classifier.double(), LABELS[0])
    assert torch.autograd.gradcheck(metric, images, atol=1e-6, fast_mode=True)
    classifier.float()


def test_unknown_class_names_similar_ones(classifier):
    with pytest.raises(ValueError, match=r"'rocke'; did you mean rocket"):
        ClassifierLogProbability(classifier, "rocke")
    with pytest.raises(ValueError, match="class 99 does not exist"):
        ClassifierLogProbability(classifier, 99)


def test_picture_distance():
    reference = torch.zeros(3, 4, 4)
    distance = PictureDistance(reference)
    assert distance(torch.full((2, 3, 4, 4), 0.5)).tolist() == [0.25, 0.25]
    with pytest.raises(ValueError, match="cannot be compared"):
        distance(torch.zeros(1, 3, 5, 5))


def test_random_views_are_drawn_from_the_generator():
    images = torch.rand(2, 3, 8, 8)
    views = RandomViews(lambda x: x.square().flatten(1).mean(1), num_views=3)
    first = views(images, torch.Generator().manual_seed(0))
    assert torch.equal(first, views(images, torch.Generator().manual_seed(0)))
    assert not torch.equal(first, views(images, torch.Generator().manual_seed(1)))
    with pytest.raises(ValueError, match="num_views"):
        RandomViews(views.metric, num_views=0)


def test_views_without_any_change_are_the_picture():
    images = torch.rand(2, 3, 8, 6, dtype=torch.float64)
    still = RandomViews(lambda x: x, max_rotation=0, max_shift=0, max_zoom=0, noise=0)
    torch.testing.assert_close(still.view(images), images)


def test_views_shift_by_the_share_they_say():
    column = torch.zeros(1, 3, 100, 100)
    column[..., 50] = 1.0
    mover = RandomViews(lambda x: x, max_rotation=0, max_shift=0.08, max_zoom=0, noise=0)
    places = [int(mover.view(column)[0, 0, 50].argmax()) for _ in range(50)]
    assert 42 <= min(places) < 46
    assert 54 < max(places) <= 58
