"""What is certified: settings, checked; nothing here takes long to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ...runs import check_seed

Method = Literal[
    "exact", "backprop", "continuous", "resolved", "coarse", "symplectic", "reversible", "truncated"
]

STEPPED = ("continuous", "resolved", "coarse", "truncated")
"""The methods with a number of reverse steps of their own."""


@dataclass(frozen=True)
class CertifyConfig:
    """What is certified. The exit status is 1 where a gradient is not found good.

    Args:
        method: the gradient method.
        num_steps: reverse steps of ``continuous``, ``resolved``, ``coarse`` and ``truncated``; the
            other methods have none.
        pipeline: folder of a diffusers pipeline, or its id on the hub (see `load_pipeline`); the
            embedded model by default.
        prompt: what the model is asked for.
        target: label that the embedded classifier is to see, ``rocket`` by default; other pipelines
            are judged by the mean square of the picture and have none.
        num_inference_steps: sampling steps.
        guidance_scale: weight of classifier-free guidance.
        num_directions: random directions in which the derivative is measured.
        derivatives: measured by ``forward`` mode or ``central`` differences; ``auto`` is the first
            where the network has it.
        by_step: also compare the adjoints along the trajectory.
        max_error: the largest relative error of a gradient that is called good.
        checkpoint: keep no graphs for the reference, plain autograd, but run calls again.
        seed: seeds the noise and the directions, from 0 to 2**32 - 1.
        device: where to run; a GPU if there is one, by default.
        json: a file to write the certificate to.
    """

    method: Method = "exact"
    num_steps: int | None = None
    pipeline: str | Path | None = None
    prompt: str = "thing, style noto"
    target: str | None = None
    num_inference_steps: int = 25
    guidance_scale: float = 3.0
    num_directions: int = 2
    derivatives: Literal["auto", "central", "forward"] = "auto"
    by_step: bool = False
    max_error: float = 0.1
    checkpoint: bool = False
    seed: int = 0
    device: str | None = None
    json: Path | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.method not in get_args(Method):
            names = ", ".join(get_args(Method))
            raise ValueError(f"method must be one of {names}, not {self.method!r}")
        if self.method in ("coarse", "truncated") and self.num_steps is None:
            raise ValueError(f"method {self.method} needs num_steps")
        if self.num_steps is not None and self.method not in STEPPED:
            raise ValueError(
                f"method {self.method} takes no num_steps; {', '.join(STEPPED)} do. The steps of "
                "the sampler are num_inference_steps"
            )
        if self.target is not None and self.pipeline is not None:
            raise ValueError(
                "target is what the embedded classifier is to see; a pipeline of your own is "
                "judged by the mean square of its picture, so leave target out"
            )
        if self.num_directions < 1:
            raise ValueError(f"num_directions must be at least 1, not {self.num_directions}")
        if not self.max_error > 0:
            raise ValueError(f"max_error must be positive, not {self.max_error}")
