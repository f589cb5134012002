"""What is certified: settings, checked; nothing here takes long to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Method = Literal[
    "exact", "backprop", "continuous", "resolved", "coarse", "symplectic", "reversible", "truncated"
]


@dataclass(frozen=True)
class CertifyConfig:
    """What is certified.

    Args:
        method: the gradient method.
        num_steps: reverse steps of ``continuous``, ``resolved``, ``coarse`` and ``truncated``.
        pipeline: folder of a diffusers pipeline, or its id on the hub (see `load_pipeline`); the
            embedded model by default.
        prompt: what the model is asked for.
        target: label that the embedded classifier is to see; other pipelines are judged by the
            mean square of the picture.
        num_inference_steps: sampling steps.
        guidance_scale: weight of classifier-free guidance.
        num_directions: random directions in which the derivative is measured.
        derivatives: measured by ``central`` differences, or by ``forward`` mode.
        by_step: also compare the adjoints along the trajectory.
        seed: of the noise and the directions.
        device: where to run; a GPU if there is one, by default.
        json: a file to write the certificate to.
    """

    method: Method = "exact"
    num_steps: int | None = None
    pipeline: str | Path | None = None
    prompt: str = "thing, style noto"
    target: str = "rocket"
    num_inference_steps: int = 25
    guidance_scale: float = 3.0
    num_directions: int = 2
    derivatives: Literal["central", "forward"] = "central"
    by_step: bool = False
    seed: int = 0
    device: str | None = None
    json: Path | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            names = ", ".join(get_args(Method))
            raise ValueError(f"method must be one of {names}, not {self.method!r}")
        if self.method in ("coarse", "truncated") and self.num_steps is None:
            raise ValueError(f"method {self.method} needs num_steps")
        if self.method == "backprop" and self.by_step:
            raise ValueError("backprop has no reverse sweep of its own, so no by_step")
