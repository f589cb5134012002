"""Settings that jobs share beside those of the run: the model, and what it is to draw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..runs import RunConfig, check_at_least_1


@dataclass(frozen=True)
class SamplerConfig:
    """The model and its sampler.

    Args:
        pretrained_model_name_or_path: folder of a diffusers pipeline, or its id on the hub; the
            embedded model by default.
        num_inference_steps: sampling steps, all of them differentiated.
        guidance_scale: weight of classifier-free guidance.
        memory_budget: bytes that `Exact` may keep graphs in, such as ``1GiB``.
        certify: measure how right the gradient is; by default on the embedded model only, since it
            runs in float64 and takes some ten times the calls of a gradient.
    """

    pretrained_model_name_or_path: str | Path | None = None
    num_inference_steps: int = 10
    guidance_scale: float = 1.0
    memory_budget: str | None = "1GiB"
    certify: bool | None = None

    def __post_init__(self) -> None:
        check_at_least_1(self, "num_inference_steps")

    @property
    def certifies(self) -> bool:
        """Whether the gradient is to be certified."""
        embedded = self.pretrained_model_name_or_path is None
        return embedded if self.certify is None else self.certify


@dataclass(frozen=True)
class ModelConfig(RunConfig, SamplerConfig):
    """The settings of a run, and the model that takes part in it."""

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        SamplerConfig.__post_init__(self)


@dataclass(frozen=True)
class GoalConfig(ModelConfig):
    """The model, and what its pictures are to become.

    Args:
        target: the class that a classifier is to see.
        classifier: folder of an image classifier of transformers, for ``target``; the embedded one
            by default.
        target_image: a picture that pictures are to be like, pixel by pixel; scaled to their size.
        objective: a function of your own, as ``module:name``; see `load_objective`.
        margin: where a classifier's logit for the target is ahead of all others by this much, a
            picture has no gradient any more.
        num_views: the objective is averaged over so many turned, shifted, zoomed and noisy views of
            each picture, and sees the picture itself if 0. One that compares pixels wants 0.
    """

    EMBEDDED_TARGET: ClassVar[str | None] = None
    """The class that a job aims at on the embedded model, where its settings name no goal."""

    target: str | None = None
    classifier: str | Path | None = None
    target_image: str | Path | None = None
    objective: str | None = None
    margin: float = 5.0
    num_views: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [n for n in ("target", "target_image", "objective") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are objectives both; set one of them")
        if self.classifier is not None and self.target is None:
            raise ValueError("classifier is for target, the class that it is to see: set target")
        if not self.margin > 0:
            raise ValueError(f"margin must be positive, not {self.margin}")
        if self.num_views < 0:
            raise ValueError(f"num_views must not be negative, but is {self.num_views}")

    @property
    def goal(self) -> str | None:
        """The class to be seen, if the objective is one."""
        other = self.target_image or self.objective or self.pretrained_model_name_or_path
        return self.target or (None if other else self.EMBEDDED_TARGET)
