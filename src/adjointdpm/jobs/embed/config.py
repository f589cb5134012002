"""The settings of the job `embed`, checked; nothing here takes long to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...runs import RunConfig, ScheduleName, check_at_least_1, check_choice

Variable = Literal["word", "prompt_embeds"]


@dataclass(frozen=True)
class EmbedConfig(RunConfig):
    """Teach a model a new word from a metric of its pictures.

    What is optimised through the whole sampler is the vector of a new token, by the gradient of
    ``target``, ``target_image`` or ``objective``; on the embedded model, with no argument,
    ``target`` is ``pineapple``, which that model can draw and has no word for.

    Args:
        pretrained_model_name_or_path: folder of a diffusers pipeline, or its id on the hub; the
            embedded model by default.
        target: the class that a classifier is to see.
        classifier: folder of an image classifier of transformers, for ``target``; the embedded one
            by default.
        target_image: a picture that pictures are to be like, pixel by pixel; scaled to their size.
        objective: a function of your own, as ``module:name``; see `load_objective`.
        variable: ``word`` for vectors of a new token, which can stand in any prompt and which
            ``load_textual_inversion`` loads, or ``prompt_embeds`` for all that the text encoders
            make of the first template.
        placeholder_token: how prompts write the word.
        initializer_token: the word that it starts from; by default the generic noun of the embedded
            model, ``object`` for others.
        num_vectors: vectors of the word.
        templates: prompts that the updates draw, with ``{}`` for the word; by default those of the
            embedded model in all styles but the last, or ``a picture of {}``.
        validation_templates: prompts that no update draws, for the report; by default the last
            style of the embedded model in another wording, or the templates again, which then meet
            other noises.
        num_inference_steps: sampling steps, all of them differentiated.
        guidance_scale: weight of classifier-free guidance.
        margin: where a classifier's logit for the target is ahead of all others by this much, a
            picture has no gradient any more.
        num_views: the objective is averaged over so many turned, shifted, zoomed and noisy views of
            each picture, and sees the picture itself if 0. One that compares pixels wants 0.
        num_candidates: pictures that are drawn first, with ``initializer_token``; 0 for none.
        num_anchors: the noises of the best of them, at most so many, are where the first updates
            begin; later ones move away from them as pictures stay good.
        train_batch_size: pictures in each update.
        num_validation_images: pictures of each prompt in the report, drawn before and after.
        validation_steps: number of updates between two previews; None for none.
        memory_budget: bytes that `Exact` may keep graphs in, such as ``1GiB``.
        device: ``cpu`` or ``cuda``; by default a GPU if there is one.
    """

    output_dir: str | Path = "adjointdpm-embed"
    description: str = "embed"
    max_train_steps: int = 80
    learning_rate: float = 0.03
    lr_scheduler: ScheduleName = "cosine"
    lr_warmup_steps: int = 5
    adam_beta2: float = 0.95
    pretrained_model_name_or_path: str | Path | None = None
    target: str | None = None
    classifier: str | Path | None = None
    target_image: str | Path | None = None
    objective: str | None = None
    variable: Variable = "word"
    placeholder_token: str = "<it>"
    initializer_token: str | None = None
    num_vectors: int = 1
    templates: list[str] | None = None
    validation_templates: list[str] | None = None
    num_inference_steps: int = 6
    guidance_scale: float = 1.0
    margin: float = 5.0
    num_views: int = 4
    num_candidates: int = 144
    num_anchors: int = 4
    train_batch_size: int = 4
    num_validation_images: int = 8
    validation_steps: int | None = None
    memory_budget: str | None = "1GiB"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("variable", self.variable, Variable)
        check_at_least_1(
            self,
            "num_vectors",
            "num_inference_steps",
            "num_anchors",
            "train_batch_size",
            "num_validation_images",
            "validation_steps",
        )
        for name in ("num_views", "num_candidates"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        if not self.margin > 0:
            raise ValueError(f"margin must be positive, not {self.margin}")
        self._check_templates()
        self._check_objective()

    def _check_templates(self) -> None:
        for name in ("templates", "validation_templates"):
            templates = getattr(self, name)
            if templates is None:
                continue
            if not templates:
                raise ValueError(f"{name} must hold at least one prompt")
            for template in templates:
                if template.count("{}") != 1:
                    raise ValueError(
                        f"{name}: {template!r} needs {{}} once, where the word is to stand"
                    )

    def _check_objective(self) -> None:
        given = [n for n in ("target", "target_image", "objective") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are objectives both; set one of them")
        if self.classifier is not None and self.target is None:
            raise ValueError("classifier is for target, the class that it is to see: set target")

    @property
    def goal(self) -> str | None:
        """The class to be seen, if the objective is one."""
        given = self.target_image or self.objective
        on_embedded = self.pretrained_model_name_or_path is None
        return self.target or ("pineapple" if on_embedded and not given else None)
