"""The settings of the demo, checked; nothing here takes long to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runs import OptimizeConfig, check_seed


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the demo.

    Args:
        output_dir: folder of the report, pictures, tensors and numbers; it must be new or empty.
        overwrite_output_dir: remove the earlier run that ``output_dir`` holds.
        seed: seeds all that is drawn at random, from 0 to 2**32 - 1.
        noise_prompt: what the first story asks for, in every style.
        noise_target: the class that its pictures become.
        embedding_prompt: the words whose embedding the second story starts from.
        embedding_target: the class that the embedding comes to mean.
        max_train_steps: updates in each of the two stories.
        num_inference_steps: sampling steps, all of them differentiated.
        guidance_scale: weight of classifier-free guidance.
        noise_learning_rate: Adam's step size on the noise.
        embedding_learning_rate: Adam's step size on the text embedding.
        batch_size: number of noises that each update of the embedding sees.
        memory_budget: bytes that `Exact` may keep graphs in, such as ``1GiB``.
        device: ``cpu`` or ``cuda``; by default a GPU if there is one.
        assets: another folder with a model like the embedded one; see `assets_folder`.
        progress_bar: whether to show progress bars.
    """

    output_dir: str | Path = "adjointdpm-demo"
    overwrite_output_dir: bool = False
    seed: int = 0
    noise_prompt: str = "apple"
    noise_target: str = "green apple"
    embedding_prompt: str = "thing"
    embedding_target: str = "pineapple"
    max_train_steps: int = 50
    num_inference_steps: int = 6
    guidance_scale: float = 1.0
    noise_learning_rate: float = 0.05
    embedding_learning_rate: float = 0.05
    batch_size: int = 4
    memory_budget: str | None = "1GiB"
    device: str | None = None
    assets: str | Path | None = None
    progress_bar: bool = True

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.num_inference_steps < 1:
            raise ValueError(
                f"num_inference_steps must be at least 1, not {self.num_inference_steps}"
            )
        for part in ("noise", "embedding"):
            self.loop(part)  # checks its settings

    def loop(self, part: str) -> OptimizeConfig:
        """Return the settings of the loop of one part, ``noise`` or ``embedding``."""
        rates = {"noise": self.noise_learning_rate, "embedding": self.embedding_learning_rate}
        return OptimizeConfig(
            learning_rate=rates[part],
            lr_scheduler="cosine",
            max_train_steps=self.max_train_steps,
            seed=(self.seed + 1) % 2**32,
            progress_bar=self.progress_bar,
            description=part,
        )
