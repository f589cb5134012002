"""What the word is taught by: the settings' objective, and who else judges it."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from ...assets import Default, assets_folder, read_concepts
from ...evaluation import Reading, read_pictures
from ...objectives import (
    ClassifierMargin,
    ImageClassifier,
    Objective,
    PictureDistance,
    RandomViews,
    find_label,
    load_objective,
)
from .config import EmbedConfig


class Goal:
    """The objective of a run.

    Args:
        config: settings.
        default: the embedded model and its classifiers, where the settings ask for one of them.
        objective: in place of what the settings name.
        device: where to put it.
    """

    def __init__(
        self,
        config: EmbedConfig,
        default: Default | None,
        objective: Objective | None,
        device: torch.device,
    ) -> None:
        self._default = default
        self._target = None if objective is not None else config.goal
        self.metric = objective if objective is not None else _objective(config, default)
        self.metric.to(device).requires_grad_(False)
        seen = self.metric
        self.objective = RandomViews(seen, config.num_views) if config.num_views else seen
        self.description = _describe(config, objective)

    @torch.no_grad()
    def measure(self, images: Tensor) -> list[float]:
        """Return the metric of pictures as they are, without views."""
        values: list[float] = self.metric(images, torch.Generator().manual_seed(0)).tolist()
        return values

    def read(self, images: Tensor) -> list[Reading]:
        """Return what classifier and judge see; nothing where the goal is no class of theirs."""
        if self._target is None or self._default is None:
            return []
        default = self._default
        if self._target not in default.judge.labels:
            return []
        return read_pictures(images, self._target, default.classifier, default.judge)


def check_goal(config: EmbedConfig, objective: Objective | None) -> None:
    """Raise where there is nothing to optimise, before anything large is loaded.

    Raises:
        ValueError: the settings name no objective, or a class that the embedded classifier does not
            know.
        FileNotFoundError: there is no such picture.
    """
    if objective is not None:
        named = (config.target, config.target_image, config.objective)
        if given := [setting for setting in named if setting is not None]:
            raise ValueError(f"an objective was passed, but the settings name {given[0]} too")
        return
    if not (config.goal or config.target_image or config.objective):
        raise ValueError(
            "nothing says what the word is to mean: set target (a class), target_image or "
            "objective (module:name), or pass objective to run_embed"
        )
    if config.goal and config.classifier is None:
        concepts = read_concepts(assets_folder() / "concepts.json").concepts
        find_label([concept.label for concept in concepts], config.goal)
    if config.target_image is not None and not Path(config.target_image).is_file():
        raise FileNotFoundError(f"target_image {config.target_image} does not exist")


def needs_default(config: EmbedConfig, objective: Objective | None) -> bool:
    """Return whether the embedded model or its classifiers take part."""
    embedded = config.goal is not None and config.classifier is None
    return config.pretrained_model_name_or_path is None or (objective is None and embedded)


def _objective(config: EmbedConfig, default: Default | None) -> Objective:
    if config.objective is not None:
        return load_objective(config.objective)
    if config.target_image is not None:
        return _Likeness(config.target_image)
    if config.classifier is not None:
        classifier = ImageClassifier.from_pretrained(config.classifier)
    else:
        assert default is not None
        classifier = default.classifier
    assert config.goal is not None
    return ClassifierMargin(classifier, config.goal, cap=config.margin)


class _Likeness(Objective):
    """The mean squared difference of pixels from a picture, scaled to the size of the others."""

    larger_is_better = False
    picture: Tensor

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        with Image.open(path) as image:
            pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
            picture = pixels.reshape(1, image.height, image.width, 3).permute(0, 3, 1, 2) / 255
        self.register_buffer("picture", picture, persistent=False)

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the differences, (batch,), of pictures (batch, 3, height, width) in [0, 1]."""
        scaled = functional.interpolate(
            self.picture.to(images), images.shape[2:], mode="bilinear", antialias=True
        )
        distance: nn.Module = PictureDistance(scaled[0])
        values: Tensor = distance(images)
        return values


def _describe(config: EmbedConfig, objective: Objective | None) -> str:
    if objective is not None:
        function = getattr(objective, "function", objective)
        name: str = getattr(function, "__name__", type(function).__name__)
        return name
    if config.objective is not None:
        return config.objective
    if config.target_image is not None:
        return f"the squared difference from {Path(config.target_image).name}"
    return f"a classifier’s margin for “{config.goal}”"
