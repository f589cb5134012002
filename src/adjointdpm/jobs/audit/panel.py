"""Who looks at the pictures of an audit, and how far they are from what they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...assets import load_feature_network
from ...features import FeatureNetwork, from_pil
from ...objectives import ImageClassifier, StructuralSimilarity, feature_distance
from ...targets import load_target
from .config import AuditConfig


def to_bits(images: Tensor) -> Tensor:
    """Return pictures in [0, 1] as the bytes that a file of 8 bits holds."""
    return images.detach().mul(255).round().clamp(0, 255).to(torch.uint8)


def from_bits(pictures: Tensor) -> Tensor:
    """Return pictures in [0, 1] as whoever reads the file has them."""
    return pictures / 255


def read_picture(path: Path) -> Tensor:
    """Return the picture in a file, (3, height, width) in [0, 1]."""
    with Image.open(path) as image:
        return from_pil(image)


def dissimilarity(images: Tensor, starts: Tensor) -> Tensor:
    """Return 1 - SSIM of pictures and their starts, (batch,)."""
    return 1 - StructuralSimilarity(starts)(images)


@dataclass(frozen=True)
class Panel:
    """The classifiers of an audit, and the features by which pictures are compared.

    Args:
        classifier: what is audited.
        judge: another one that takes no part, if there is one.
        transfer: further ones, by name, that are shown what was found.
        network: whose features are compared.
    """

    classifier: ImageClassifier
    judge: ImageClassifier | None
    network: FeatureNetwork
    transfer: dict[str, ImageClassifier] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        config: AuditConfig,
        device: torch.device,
        classifier: ImageClassifier | None = None,
    ) -> Panel:
        """Load what the settings name, frozen.

        Args:
            config: settings.
            device: where to put it.
            classifier: what is audited, in place of the one that they name; no judge comes with it.

        Raises:
            ValueError: there is no such classifier or network.
        """
        embedded = classifier is None and config.classifier == "classifier"
        if classifier is None:
            classifier = load_target(
                config.classifier, **(config.classifier_options or {}), device=device
            )
        judge = config.judge or ("judge" if embedded else None)
        panel = cls(
            classifier=classifier.to(device),
            judge=None if judge is None else load_target(judge, device=device),
            network=load_feature_network(config.feature_network).to(device),
            transfer={name: load_target(name, device=device) for name in config.transfer or ()},
        )
        for module in (*panel.others.values(), panel.classifier, panel.network):
            module.eval().requires_grad_(False)
        return panel

    @property
    def others(self) -> dict[str, ImageClassifier]:
        """The judge, by that name, and those of ``transfer``."""
        return ({} if self.judge is None else {"the judge": self.judge}) | self.transfer

    def check(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Raise unless every classifier knows the classes of the items.

        Raises:
            ValueError: one does not; the message names similar classes.
        """
        for name, classifier in {"the classifier": self.classifier, **self.others}.items():
            for label in {i["label"] for i in items} | {i["target"] for i in items} - {None}:
                try:
                    classifier.index(label)
                except ValueError as error:
                    raise ValueError(f"{name} cannot be asked: {error}") from None

    def perceptual(self, images: Tensor, starts: Tensor) -> Tensor:
        """Return the distance of features of pictures and their starts, (batch,)."""
        return feature_distance(self.network(images), self.network.constants(starts))

    def distance(self, name: str) -> Callable[[Tensor, Tensor], Tensor]:
        """Return a distance of pictures from their starts, by its name in the settings."""
        return dissimilarity if name == "ssim" else self.perceptual

    @torch.no_grad()
    def read(self, picture: Tensor, label: str) -> dict[str, Any]:
        """Return what all say of one picture.

        A picture is shown alone, so that what is said of it depends on no other.

        Args:
            picture: (3, height, width) bytes, as the file holds them.
            label: its true class.

        Returns:
            The classifier's ``answer``, the ``confidence`` in it and the ``margin`` by which the
            true class is ahead, and the answers of the judge and of the others.
        """
        image = from_bits(picture)[None]
        logits = self.classifier(image)[0].double().cpu()
        index = self.classifier.index(label)
        others = torch.cat([logits[:index], logits[index + 1 :]])
        answers = {
            name: classifier.labels[int(classifier(image)[0].argmax())]
            for name, classifier in self.others.items()
        }
        return {
            "answer": self.classifier.labels[int(logits.argmax())],
            "confidence": float(logits.softmax(0).max()),
            "margin": float(logits[index] - others.max()),
            "judge": answers.pop("the judge", None),
            "transfer": answers,
        }

    @torch.no_grad()
    def compare(self, picture: Tensor, start: Tensor) -> dict[str, float | None]:
        """Return how far a picture is from its start.

        Args:
            picture: (3, height, width) bytes.
            start: (3, height, width) bytes.
        """
        image, other = from_bits(picture)[None], from_bits(start)[None]
        small = min(image.shape[2:]) < 6
        return {
            "ssim": None if small else 1 - float(dissimilarity(image, other)),
            "perceptual": float(self.perceptual(image, other)),
            "pixel_l2": float((image - other).square().sum().sqrt()),
        }
