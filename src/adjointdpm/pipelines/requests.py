"""What is asked of a family of pipelines: a sampler, or the conditioning of a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

from ..gradients import GradientMethod
from ..plan import Plan

Options = TypeVar("Options")


@dataclass(frozen=True)
class Size:
    """How large the pictures are; None where the pipeline's own default is meant.

    Args:
        height: of a picture, in pixels.
        width: of a picture, in pixels.
        num_frames: of a video.
    """

    height: int | None = None
    width: int | None = None
    num_frames: int | None = None


@dataclass(frozen=True)
class SamplingRequest:
    """The settings of `from_pipeline`."""

    scheduler: Any
    num_inference_steps: int = 25
    plan: Plan | None = None
    guidance_scale: float = 1.0
    guidance_scale_2: float | None = None
    true_cfg_scale: float = 1.0
    guidance_rescale: float = 0.0
    guidance_passes: Literal["batched", "sequential"] = "batched"
    eta: float = 0.0
    strength: float | None = None
    gradient: GradientMethod | None = None
    size: Size = Size()


@dataclass(frozen=True)
class PromptRequest:
    """The arguments of `encode_prompt`.

    Args:
        prompt: one prompt, or one for each sample.
        negative_prompt: what guidance leads away from; None for the pipeline's default.
        guidance: whether the negative conditioning is needed.
        size: of the pictures, where the conditioning tells of it.
        arguments: what the family takes beyond that; the rest is for the pipeline's own
            ``encode_prompt``.
    """

    prompt: Any
    negative_prompt: Any = None
    guidance: bool = True
    size: Size = Size()
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def split(self, options: type[Options]) -> tuple[Options, PromptRequest]:
        """Return the arguments that are fields of a dataclass, as one, and the request without.

        >>> options, rest = PromptRequest("a cat", arguments={"height": 8, "tau": 1}).split(Size)
        >>> options.height, dict(rest.arguments)
        (8, {'tau': 1})
        """
        names = {each.name for each in fields(options)}  # type: ignore[arg-type]  # a dataclass
        taken = {name: value for name, value in self.arguments.items() if name in names}
        rest = {name: value for name, value in self.arguments.items() if name not in names}
        return options(**taken), replace(self, arguments=rest)

    def with_default(self, name: str, value: Any) -> PromptRequest:
        """Return the same with an argument that has this value unless it was given."""
        return replace(self, arguments={name: value, **self.arguments})

    def take_no_more(self) -> None:
        """Raise if there are arguments left.

        Raises:
            TypeError: they are not known.
        """
        if self.arguments:
            raise TypeError(f"encode_prompt of this pipeline takes no {', '.join(self.arguments)}")
