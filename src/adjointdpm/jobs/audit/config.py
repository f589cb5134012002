"""The settings of the job `audit`, checked; nothing here takes long to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from ...attacks import LossName, NormName, RuleName
from ...runs import LATEST, FolderConfig, check_at_least_1, check_choice
from ...setup import SamplerConfig

PictureDistanceName = Literal["ssim", "perceptual"]
ExecutorName = Literal["local", "ray"]


@dataclass(frozen=True)
class AuditConfig(SamplerConfig, FolderConfig):
    """Measure how easily a classifier is fooled by pictures that a diffusion model draws.

    The noise of each picture is moved inside a trust region, along the gradient through the whole
    sampler, until the classifier calls the picture by another name.

    Args:
        output_dir: folder of the report, the pictures and ``results.jsonl``.
        resume_from_checkpoint: ``latest`` to go on with the run in ``output_dir``: items that have
            a result keep it.
        prompts_file: a CSV or JSONL file with the columns ``prompt`` and ``label``, the true class
            by the classifier's name for it, and if wanted ``target``, ``seed`` and ``picture``: a
            file whose noise is where the attack begins, for which DDIM draws all pictures. For the
            embedded model its own words by default.
        num_prompts: how many prompts; by default all of the file, or 24 of the embedded model's.
        num_images_per_prompt: pictures of each prompt, each from a noise of its own.
        negative_prompt: what guidance leads away from.
        classifier: what is audited, by a name that `load_target` knows: ``classifier`` is the
            embedded one.
        classifier_options: what `load_target` is told beside the name, such as
            ``{"labels": "imagenet"}``.
        judge: another classifier, which takes no part: it says whether a picture still shows what
            it should. By default ``judge`` of the embedded model for the embedded classifier, and
            none for others.
        transfer: further classifiers that are shown what was found.
        norm: ``linf`` for a box around the noise, ``l2`` for a ball.
        radius: how far the noise may go from its start in that norm; None for any distance, where
            ``picture_limit`` says how far.
        shell: keep the length of the noise.
        picture_limit: how different a picture may be from its start, by ``picture_distance``.
        picture_distance: ``ssim`` for 1 - SSIM, or ``perceptual`` for the distance of features.
        feature_network: whose features are compared, by a name that `load_feature_network` knows.
        target: the class to be seen in each picture; by default any but the true one. The column
            ``target`` of ``prompts_file`` says it for each prompt.
        loss: what is climbed: ``margin`` of logits, ``cross_entropy`` or ``dlr``.
        step_rule: ``apgd`` for the adaptive steps of AutoPGD, ``sign``, ``normalized`` or ``adam``.
        step_size: length of a step in the norm (at first, for ``apgd``); by default twice the
            radius for ``apgd``, and else 2.5 radii over all steps.
        max_steps: steps of each picture.
        num_restarts: how often a picture that holds is begun again from a random noise inside.
        stop_at_success: end a picture where it first fools; otherwise go on for the strongest.
        batch_size: pictures that are worked on together. One that ended makes room for the next.
        executor: ``local`` for this process, ``ray`` for actors on a cluster.
        num_workers: how many there are.
        num_shards: of how many machines this is one, each with an ``output_dir`` of its own.
        shard_index: which of them, from 0.
    """

    MAY_CHANGE: ClassVar[frozenset[str]] = FolderConfig.MAY_CHANGE | {
        "batch_size",
        "executor",
        "num_workers",
        "num_shards",
        "shard_index",
        "certify",
        "memory_budget",
    }

    output_dir: str | Path = "adjointdpm-audit"
    description: str = "audit"
    prompts_file: str | Path | None = None
    num_prompts: int | None = None
    num_images_per_prompt: int = 1
    negative_prompt: str | None = None
    classifier: str = "classifier"
    classifier_options: dict[str, str] | None = None
    judge: str | None = None
    transfer: list[str] | None = None
    norm: NormName = "linf"
    radius: float | None = 0.3
    shell: bool = False
    picture_limit: float | None = None
    picture_distance: PictureDistanceName = "ssim"
    feature_network: str = "judge"
    target: str | None = None
    loss: LossName = "margin"
    step_rule: RuleName = "apgd"
    step_size: float | None = None
    max_steps: int = 20
    num_restarts: int = 0
    stop_at_success: bool = True
    batch_size: int = 8
    executor: ExecutorName = "local"
    num_workers: int = 1
    num_shards: int = 1
    shard_index: int = 0

    def __post_init__(self) -> None:
        FolderConfig.__post_init__(self)
        SamplerConfig.__post_init__(self)
        for name, choices in (
            ("norm", NormName),
            ("loss", LossName),
            ("step_rule", RuleName),
            ("picture_distance", PictureDistanceName),
            ("executor", ExecutorName),
        ):
            check_choice(name, getattr(self, name), choices)
        check_at_least_1(
            self,
            "num_prompts",
            "num_images_per_prompt",
            "max_steps",
            "batch_size",
            "num_workers",
            "num_shards",
        )
        for name in ("radius", "picture_limit", "step_size"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, not {value}")
        if self.num_restarts < 0:
            raise ValueError(f"num_restarts must not be negative, but is {self.num_restarts}")
        if not 0 <= self.shard_index < self.num_shards:
            raise ValueError(
                f"shard_index must be from 0 to {self.num_shards - 1}, not {self.shard_index}"
            )
        self._check_needs()

    def _check_needs(self) -> None:
        """Raise where a setting needs another that is missing."""
        if self.resume_from_checkpoint not in (None, LATEST):
            raise ValueError(
                f"resume_from_checkpoint must be latest, not {self.resume_from_checkpoint}: an "
                "audit goes on in its output_dir"
            )
        if self.radius is None and self.picture_limit is None:
            raise ValueError("nothing bounds the pictures: set radius or picture_limit")
        if self.radius is None and self.step_size is None:
            raise ValueError("without a radius nothing says how long a step is: set step_size")
        if self.radius is None and self.num_restarts:
            raise ValueError("restarts are drawn inside the radius, and there is none: set it")
        if self.negative_prompt is not None and self.guidance_scale <= 1:
            raise ValueError(
                f"negative_prompt needs guidance_scale above 1, and it is {self.guidance_scale}"
            )
        if self.pretrained_model_name_or_path is not None and self.prompts_file is None:
            raise ValueError(
                "nothing says what the pictures are of and what their true classes are: set "
                "prompts_file, with the columns prompt and label"
            )
        if self.executor == "local" and self.num_workers > 1:
            raise ValueError(
                f"num_workers {self.num_workers} are for executor ray; locally, raise batch_size"
            )
