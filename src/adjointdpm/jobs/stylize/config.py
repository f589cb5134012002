"""The settings of the job `stylize`, checked; nothing here takes long to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ...runs import ScheduleName, check_at_least_1
from ...setup import ModelConfig


@dataclass(frozen=True)
class StylizeConfig(ModelConfig):
    """Give a model the style of one picture, whatever it is asked for.

    A LoRA adapter is optimised through the whole sampler: its pictures are to have the Gram
    matrices of the style picture, and the content that the model without it draws from the same
    noise.

    Args:
        style_image: the picture; by default one of painted strokes that is drawn here.
        style_size: length that the shorter edge of it is scaled to, in pixels; by default that of
            the pictures. Strokes get smaller with it, unless the feature network scales pictures to
            a size of its own, as classifiers do.
        objective: what to optimise in place of the distance from the style, as ``module:name``; see
            `load_objective`.
        feature_network: whose features say what style and content are, by a name that
            `load_feature_network` knows; by default the embedded classifier for the embedded model,
            and for others VGG16 where its weights are installed.
        style_layers: layers of it whose Gram matrices are the style; by default the first of each
            block of VGG16, or all but the last two of those that `load_feature_network` names.
        content_layers: layers of it whose features are the content; by default the last two.
        content_weight: weight of the content beside the style. More keeps more of the picture, and
            takes on less of the style.
        rank: of the adapter.
        lora_alpha: the adapter's update is scaled by ``lora_alpha / rank``; the rank by default.
        target_modules: ends of the names of the layers that the adapter is on; by default the
            projections of attention, and the convolutions of a UNet's residual blocks.
        trainable: parts of the pipeline to train in place of an adapter, such as ``unet.up_blocks``
            (see `adjointdpm.trainable`).
        prompts: what the updates draw from; by default four in five of the embedded model's words,
            in all of its styles, or a dozen everyday things.
        validation_prompts: prompts for the report, which no update draws; by default the other
            words, or other things.
        train_batch_size: pictures in each update.
        num_validation_images: pictures of the report, drawn before and after.
        validation_steps: number of updates between two previews; None for none.
        fully_shard: spread the weights of the UNet or transformer over the processes that
            ``torchrun`` or ``accelerate launch`` started (FSDP2), for a model too large for a card.
    """

    MAY_CHANGE: ClassVar[frozenset[str]] = ModelConfig.MAY_CHANGE | {"fully_shard"}

    output_dir: str | Path = "adjointdpm-stylize"
    description: str = "stylize"
    max_train_steps: int = 30
    learning_rate: float = 8e-3
    lr_scheduler: ScheduleName = "cosine"
    max_grad_norm: float | None = 1.0
    style_image: str | Path | None = None
    style_size: int | None = None
    objective: str | None = None
    feature_network: str | None = None
    style_layers: list[str] | None = None
    content_layers: list[str] | None = None
    content_weight: float = 1.0
    rank: int = 8
    lora_alpha: float | None = None
    target_modules: list[str] | None = None
    trainable: list[str] | None = None
    prompts: list[str] | None = None
    validation_prompts: list[str] | None = None
    num_inference_steps: int = 4
    train_batch_size: int = 4
    num_validation_images: int = 16
    validation_steps: int | None = None
    fully_shard: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_1(
            self,
            "style_size",
            "rank",
            "train_batch_size",
            "num_validation_images",
            "validation_steps",
        )
        if not self.content_weight >= 0:
            raise ValueError(f"content_weight must not be negative, but is {self.content_weight}")
        for name in (
            "trainable",
            "target_modules",
            "prompts",
            "validation_prompts",
            "style_layers",
        ):
            if getattr(self, name) == []:
                raise ValueError(f"{name} must name at least one, or be left out")
        if self.objective is not None and self.style_image is not None:
            raise ValueError("objective and style_image both say what to aim at; set one of them")
        seen = set(self.prompts or ()) & set(self.validation_prompts or ())
        if seen:
            raise ValueError(
                f"{min(seen)!r} is among prompts and validation_prompts; the report is on prompts "
                "that no update draws"
            )
        if self.style_image is not None and not Path(self.style_image).is_file():
            raise FileNotFoundError(f"style_image {self.style_image} does not exist")
