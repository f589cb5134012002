"""The settings of the job `guide`, checked; nothing here takes long to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from ...runs import ScheduleName, check_at_least_1, check_choice
from ...setup import GoalConfig

GuideMethod = Literal["noise", "steps"]
EMBEDDED_PROMPT = "apple, style noto"


@dataclass(frozen=True)
class GuideConfig(GoalConfig):
    """Settings of the job that leads single samples to a goal, with nothing trained.

    Args:
        output_dir: folder of the report and the pictures.
        method: ``noise`` optimises the noise of each picture through the whole sampler, as DOODL
            does, and leaves a noise that the pipeline draws the picture from; ``steps`` samples
            once, by DDIM at the scheduler's times, and moves the latent at each step, as DPS and
            symplectic adjoint guidance do.
        prompt: what the pictures are of; ``apple, style noto`` on the embedded model.
        negative_prompt: what guidance leads away from.
        num_images: how many pictures, each from a noise of its own.
        strength: how far ``steps`` moves the latent, see `StepGuidance`.
        inner_steps: network calls with which ``steps`` looks ahead; 1 is one-step guidance.
        num_repeats: how often ``steps`` makes each step (time travel).
        guidance_start: share of the steps before ``steps`` begins.
        guidance_end: share of the steps after which it ends.
    """

    EMBEDDED_TARGET: ClassVar[str | None] = "green apple"

    output_dir: str | Path = "adjointdpm-guide"
    description: str = "guide"
    learning_rate: float = 0.05
    lr_scheduler: ScheduleName = "cosine"
    method: GuideMethod = "noise"
    prompt: str | None = None
    negative_prompt: str | None = None
    num_images: int = 4
    strength: float = 0.5
    inner_steps: int = 4
    num_repeats: int = 1
    guidance_start: float = 0.0
    guidance_end: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("method", self.method, GuideMethod)
        check_at_least_1(self, "num_images", "inner_steps", "num_repeats")
        embedded = self.pretrained_model_name_or_path is None
        if self.prompt is None:
            if not embedded:
                raise ValueError("nothing says what the pictures are of: set prompt")
            object.__setattr__(self, "prompt", EMBEDDED_PROMPT)
        if self.negative_prompt is not None and self.guidance_scale <= 1:
            raise ValueError(
                f"negative_prompt needs guidance_scale above 1, and it is {self.guidance_scale}"
            )
