"""The settings of the tour, and of each job on it; nothing here takes long to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..jobs.audit import AuditConfig
from ..jobs.embed import EmbedConfig
from ..jobs.guide import GuideConfig
from ..jobs.stylize import StylizeConfig
from ..runs import FolderConfig, check_at_least_1, check_seed

Config = TypeVar("Config", bound=FolderConfig)


@dataclass(frozen=True)
class TourConfig:
    """A short run of each job on the embedded model.

    Args:
        output_dir: folder of the page, and of a folder for each job; it must be new or empty.
        overwrite_output_dir: remove the earlier run that ``output_dir`` holds.
        seed: seeds all that is drawn at random, from 0 to 2**32 - 1.
        guide_target: the class that ``guide`` leads pictures of ``apple`` to.
        embed_target: the class that ``embed`` teaches an embedding of, starting from ``thing``.
        style_image: the picture whose style ``stylize`` takes; by default strokes of paint.
        max_train_steps: number of updates of each job; by default what shows well.
        device: ``cpu`` or ``cuda``; by default a GPU if there is one.
        progress_bar: whether to show progress bars.
    """

    output_dir: str | Path = "adjointdpm-demo"
    overwrite_output_dir: bool = False
    seed: int = 0
    guide_target: str = "green apple"
    embed_target: str = "pineapple"
    style_image: str | Path | None = None
    max_train_steps: int | None = None
    device: str | None = None
    progress_bar: bool = True

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_at_least_1(self, "max_train_steps")
        self.guide(), self.embed(), self.stylize(), self.audit()  # check their settings

    def guide(self) -> GuideConfig:
        """Return the settings of `guide`."""
        return self._job(
            GuideConfig,
            "guide",
            max_train_steps=self.max_train_steps or 30,
            prompt="apple, style noto",
            target=self.guide_target,
            num_inference_steps=6,
        )

    def embed(self) -> EmbedConfig:
        """Return the settings of `embed`."""
        return self._job(
            EmbedConfig,
            "embed",
            max_train_steps=self.max_train_steps or 16,
            target=self.embed_target,
            num_views=2,
            num_candidates=96,
            inversion_steps=self.max_train_steps or 100,
            inversion_batch_size=8,
            num_validation_images=4,
            certify=False,
        )

    def stylize(self) -> StylizeConfig:
        """Return the settings of `stylize`."""
        return self._job(
            StylizeConfig,
            "stylize",
            max_train_steps=self.max_train_steps or 20,
            style_image=self.style_image,
            content_weight=0.5,
            num_validation_images=4,
            certify=False,
        )

    def audit(self) -> AuditConfig:
        """Return the settings of `audit`."""
        return self._job(
            AuditConfig,
            "audit",
            num_prompts=6,
            max_steps=self.max_train_steps or 10,
            num_inference_steps=6,
            certify=False,
        )

    def _job(self, config: type[Config], name: str, **settings: Any) -> Config:
        return config(
            output_dir=Path(self.output_dir) / name,
            seed=self.seed,
            device=self.device,
            progress_bar=self.progress_bar,
            **settings,
        )
