"""What a job optimises: the settings' objective, and who else judges the pictures."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..assets import Default, assets_folder, read_concepts
from ..evaluation import Reading, read_pictures
from ..features import from_pil
from ..objectives import (
    ClassifierMargin,
    ImageClassifier,
    Objective,
    PictureDistance,
    RandomViews,
    find_label,
    load_objective,
)
from .config import GoalConfig


class Goal:
    """The objective of a job.

    Args:
        config: settings.
        default: the embedded model and its classifiers, where `needs_default` says so.
        objective: in place of what the settings name.
        device: where to put it.
    """

    def __init__(
        self,
        config: GoalConfig,
        default: Default | None,
        objective: Objective | None,
        device: torch.device,
    ) -> None:
        self._default = default
        self._target = None if objective is not None else config.goal
        self.metric = objective if objective is not None else _objective(config, default)
        self.metric.to(device).requires_grad_(False)
        views = config.num_views
        self.objective = RandomViews(self.metric, views) if views else self.metric
        self.description = _describe(config, objective)

    @property
    def larger_is_better(self) -> bool:
        """The direction of the metric."""
        return self.metric.larger_is_better

    @torch.no_grad()
    def measure(self, images: Tensor) -> list[float]:
        """Return the metric of pictures as they are, without views."""
        values: list[float] = self.metric(images, torch.Generator().manual_seed(0)).tolist()
        return values

    def read(self, images: Tensor) -> list[Reading]:
        """Return what classifier and judge see; nothing where the goal is no class of theirs."""
        default, target = self._default, self._target
        if default is None or target is None or target not in default.judge.labels:
            return []
        return read_pictures(images, target, default.classifier, default.judge)


def require_goal(config: GoalConfig, objective: Objective | None) -> None:
    """Raise where there is nothing to optimise, before anything large is loaded.

    Args:
        config: settings.
        objective: what was passed beside them.

    Raises:
        ValueError: no objective, two of them, or a class that the embedded classifier does not
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
            "nothing says what pictures are to become: set target (a class), target_image or "
            "objective (module:name), or pass an objective"
        )
    if config.goal and config.classifier is None:
        concepts = read_concepts(assets_folder() / "concepts.json").concepts
        find_label([concept.label for concept in concepts], config.goal)
    if config.target_image is not None and not Path(config.target_image).is_file():
        raise FileNotFoundError(f"target_image {config.target_image} does not exist")


def needs_default(config: GoalConfig, objective: Objective | None) -> bool:
    """Return whether the embedded classifiers take part."""
    return objective is None and config.goal is not None and config.classifier is None


def _objective(config: GoalConfig, default: Default | None) -> Objective:
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
            picture = from_pil(image)[None]
        self.register_buffer("picture", picture, persistent=False)

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the differences, (batch,), of pictures (batch, 3, height, width) in [0, 1]."""
        scaled = functional.interpolate(
            self.picture.to(images), images.shape[2:], mode="bilinear", antialias=True
        )
        return PictureDistance(scaled[0])(images)


def _describe(config: GoalConfig, objective: Objective | None) -> str:
    if objective is not None:
        function = getattr(objective, "function", objective)
        name: str = getattr(function, "__name__", type(function).__name__)
        return name
    if config.objective is not None:
        return config.objective
    if config.target_image is not None:
        return f"the squared difference from {Path(config.target_image).name}"
    return f"a classifier’s margin for “{config.goal}”"
