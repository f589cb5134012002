"""Metrics of a class are what the classifier's logits say."""

import pytest
import torch
from tiny_pipeline import LABELS, write_classifier

from adjointdpm.objectives import ClassifierLogProbability, ClassifierMargin, ImageClassifier


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


def test_margin_is_positive_where_the_class_wins(classifier):
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    logits = classifier(images)
    margins = torch.stack([ClassifierMargin(classifier, i)(images) for i in range(len(LABELS))], 1)
    assert torch.equal((margins > 0).int().argmax(1), logits.argmax(1))
    assert ((margins > 0).sum(1) == 1).all()
    for i in range(len(LABELS)):
        others = [logits[:, k] for k in range(len(LABELS)) if k != i]
        expected = logits[:, i] - torch.stack(others).amax(0)
        torch.testing.assert_close(margins[:, i], expected)


def test_a_margin_that_is_enough_has_no_gradient(classifier):
    images = torch.rand(2, 3, 16, 16).requires_grad_()
    free = ClassifierMargin(classifier, 0)(images).detach()
    capped = ClassifierMargin(classifier, 0, cap=float(free.mean()))(images)
    torch.testing.assert_close(capped.detach(), free.clamp(max=float(free.mean())))
    capped.sum().backward()
    won = free > free.mean()
    assert won.any()
    assert not won.all()
    assert torch.equal(images.grad.flatten(1).any(1), ~won)


def test_pictures_in_another_range_are_refused(classifier):
    images = torch.rand(2, 3, 16, 16)
    for wrong in (2 * images - 1, 255 * images):
        with pytest.raises(ValueError, match=r"must have values in \[0, 1\]"):
            classifier(wrong)
    assert classifier.bounds == (0.0, 1.0)
    assert classifier(images * 1.2 - 0.1).shape == (2, len(LABELS))


def test_a_network_that_was_never_taught_the_classes_is_refused(classifier, tmp_path):
    classifier.model.base_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks 2 weights of its .*they would be random numbers"):
        ImageClassifier.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        ImageClassifier.from_pretrained(tmp_path.parent)


def test_labels_must_fit_the_logits(classifier):
    few = ImageClassifier(classifier.model, classifier.preprocessing, LABELS[1:])
    with pytest.raises(ValueError, match="has 4 labels"):
        few(torch.rand(2, 3, 16, 16))
    with pytest.raises(ValueError, match="pass labels"):
        ImageClassifier(torch.nn.Flatten())
