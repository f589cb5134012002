"""The settings of the job `embed`, checked; nothing here takes long to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from ...runs import ScheduleName, check_at_least_1, check_choice
from ...setup import GoalConfig

Variable = Literal["word", "prompt_embeds"]


@dataclass(frozen=True)
class EmbedConfig(GoalConfig):
    """Teach a model a new word from a metric of its pictures.

    What is optimised through the whole sampler is the vector of a new token, by the gradient of
    ``target``, ``target_image`` or ``objective``; on the embedded model, with no argument,
    ``target`` is ``pineapple``, which that model can draw and has no word for.

    Args:
        variable: ``word`` for vectors of a new token, which can stand in any prompt and which
            ``load_textual_inversion`` loads, or ``prompt_embeds`` for all that the text encoders
            make of the first template.
        placeholder_token: how prompts write the word.
        initializer_token: the word that it starts from; by default the generic noun of the embedded
            model, ``object`` for others.
        num_vectors: vectors of the word.
        max_distance: how far each of them may go from the one that it starts as, as a share of the
            length of that; None for any distance.
        templates: prompts that the updates draw, with ``{}`` for the word; by default those of the
            embedded model in all styles but the last, or ``a picture of {}``.
        validation_templates: prompts that no update draws, for the report; by default the last
            style of the embedded model in another wording, or the templates again, which then meet
            other noises.
        contexts: prompts that take the place of half of the templates in updates, in which the word
            stands beside other words, so that it comes to mean the same in all of them; by default
            other wordings and the named things of the embedded model, or none. No candidates are
            drawn with them.
        num_candidates: pictures that are drawn first, with ``initializer_token``; 0 for none.
        num_examples: the best of them, at most so many, are what the word is fitted to first, by
            textual inversion.
        inversion_steps: updates of that; 0 for none.
        inversion_learning_rate: their step size.
        inversion_batch_size: noised pictures in each of them, and beside each update.
        inversion_weight: how much the same error counts in the updates through the sampler, as a
            multiple of the objective's spread over the candidates; 0 for nothing.
        train_batch_size: pictures in each update.
        num_validation_images: pictures of each prompt in the report, drawn before and after.
        validation_steps: number of updates between two previews; None for none.
        fully_shard: spread the weights of the UNet or transformer over the processes that
            ``torchrun`` or ``accelerate launch`` started (FSDP2), for a model too large for a card.
        device: ``cpu`` or ``cuda``; by default a GPU if there is one.
    """

    MAY_CHANGE: ClassVar[frozenset[str]] = GoalConfig.MAY_CHANGE | {"fully_shard"}
    EMBEDDED_TARGET: ClassVar[str | None] = "pineapple"

    output_dir: str | Path = "adjointdpm-embed"
    description: str = "embed"
    max_train_steps: int = 40
    learning_rate: float = 0.01
    lr_scheduler: ScheduleName = "cosine"
    lr_warmup_steps: int = 5
    adam_beta2: float = 0.95
    variable: Variable = "word"
    placeholder_token: str = "<it>"
    initializer_token: str | None = None
    num_vectors: int = 3
    max_distance: float | None = 0.8
    templates: list[str] | None = None
    contexts: list[str] | None = None
    validation_templates: list[str] | None = None
    num_inference_steps: int = 6
    num_views: int = 4
    num_candidates: int = 144
    num_examples: int = 12
    inversion_steps: int = 150
    inversion_learning_rate: float = 0.01
    inversion_batch_size: int = 16
    inversion_weight: float = 30.0
    train_batch_size: int = 4
    num_validation_images: int = 8
    validation_steps: int | None = None
    fully_shard: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("variable", self.variable, Variable)
        check_at_least_1(
            self,
            "num_vectors",
            "num_examples",
            "inversion_batch_size",
            "train_batch_size",
            "num_validation_images",
            "validation_steps",
        )
        for name in ("num_candidates", "inversion_steps", "inversion_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        if not self.inversion_learning_rate > 0:
            raise ValueError(
                f"inversion_learning_rate must be positive, not {self.inversion_learning_rate}"
            )
        self._check_templates()

    def _check_templates(self) -> None:
        for name in ("templates", "contexts", "validation_templates"):
            templates = getattr(self, name)
            if templates is None:
                continue
            if not templates and name != "contexts":
                raise ValueError(f"{name} must hold at least one prompt")
            for template in templates:
                if template.count("{}") != 1:
                    raise ValueError(
                        f"{name}: {template!r} needs {{}} once, where the word is to stand"
                    )
