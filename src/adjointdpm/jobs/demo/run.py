"""The demo: what a gradient through the complete sampler can do, on the embedded model.

Two stories. In the first the noise is optimised and the words stay; in the second the words'
embedding is optimised and the noise changes with every step. Both follow the gradient of a
classifier's log-probability through decoder and sampler.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ...assets import Default, load_default
from ...certificate import Certificate, certify
from ...decoding import Decoder
from ...evaluation import Reading, read_pictures
from ...gradients import Exact
from ...objectives import ClassifierLogProbability, RandomViews
from ...pipelines import encode_prompt, from_pipeline
from ...runs import History, choose_device, environment, optimize, peak_memory
from ...sampler import Sampler
from ...variables import project_to_typical
from .config import DemoConfig

NUM_FRAMES = 5
UNSEEN_SEED = 1_000_000
"""Added to the seed for the noises that the embedding is judged on and never optimised on."""


@dataclass(frozen=True)
class Row:
    """One picture on its way.

    Args:
        label: what the row is.
        pictures: (frames, 3, height, width) in [0, 1], from before the first update to after the
            last.
        before: what the classifiers read in the first.
        after: what they read in the last.
    """

    label: str
    pictures: Tensor
    before: Reading
    after: Reading


@dataclass(frozen=True)
class Story:
    """One optimisation.

    Args:
        name: of its files.
        prompt: what the model was asked for.
        frames: the number of updates before each column of pictures.
        rows: the pictures.
        history: losses and timings.
    """

    name: str
    prompt: str
    frames: list[int]
    rows: list[Row]
    history: History


@dataclass(frozen=True)
class DemoResult:
    """All that the report tells.

    Args:
        config: the settings.
        noise: the story of the noise.
        embedding: the story of the text embedding.
        certificate: how right the gradient with respect to the noise is.
        network_calls: how often each sampling run calls the network.
        seconds: of the whole demo.
        peak_memory: bytes.
        environment: versions and machine.
    """

    config: DemoConfig
    noise: Story
    embedding: Story
    certificate: Certificate
    network_calls: int
    seconds: float
    peak_memory: int
    environment: dict[str, str]

    @property
    def gradient_error(self) -> float:
        """The largest relative difference of the gradient from a central difference."""
        return max(
            abs((computed - measured) / measured)
            for target in self.certificate.targets
            for computed, measured in zip(target.computed, target.measured, strict=True)
        )


@dataclass(frozen=True)
class Studio:
    """The loaded model, ready to draw."""

    config: DemoConfig
    default: Default
    sampler: Sampler
    decode: Decoder
    device: torch.device

    @classmethod
    def open(cls, config: DemoConfig) -> Studio:
        """Load the model.

        Raises:
            ValueError: the classifiers do not know a target.
        """
        device = choose_device(config.device)
        default = load_default(config.assets, device)
        for target in (config.noise_target, config.embedding_target):
            default.classifier.index(target)
        sampler, decode = from_pipeline(
            default.pipeline,
            config.num_inference_steps,
            config.guidance_scale,
            gradient=Exact(memory_budget=config.memory_budget),
        )
        return cls(config, default, sampler, decode, device)

    def encode(self, prompts: list[str]) -> dict[str, Tensor]:
        """Return the conditioning of prompts."""
        return encode_prompt(self.default.pipeline, prompts)

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Return standard-normal latents, the same on every device."""
        unet = self.default.pipeline.unet.config
        shape = (count, unet.in_channels, unet.sample_size, unet.sample_size)
        return torch.randn(shape, generator=generator).to(self.device)

    def metric(self, target: str) -> ClassifierLogProbability:
        """Return what is optimised."""
        return ClassifierLogProbability(self.default.classifier, target)

    def rows(self, labels: list[str], target: str, frames: list[Tensor]) -> list[Row]:
        """Return the rows of a story from its frames, each (rows, 3, height, width)."""

        def read(images: Tensor) -> list[Reading]:
            default = self.default
            return read_pictures(images, target, default.classifier, default.judge)

        pictures = torch.stack(frames, dim=1).cpu()
        ends = zip(labels, pictures, read(frames[0]), read(frames[-1]), strict=True)
        return [Row(*entries) for entries in ends]


def run_demo(config: DemoConfig) -> DemoResult:
    """Run both stories; write the optimised tensors into ``config.output_dir``.

    Args:
        config: settings.
    """
    started = time.perf_counter()
    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    studio = Studio.open(config)
    certificate = certify_gradient(studio)
    noise = optimize_noise(studio)
    embedding = optimize_embedding(studio)
    return DemoResult(
        config=config,
        noise=noise,
        embedding=embedding,
        certificate=certificate,
        network_calls=studio.sampler.plan.num_calls,
        seconds=time.perf_counter() - started,
        peak_memory=peak_memory(studio.device),
        environment=environment(studio.device),
    )


def certify_gradient(studio: Studio) -> Certificate:
    """Compare the gradient of the first picture with central differences of sampling runs."""
    generator = torch.Generator().manual_seed(studio.config.seed)
    style = studio.default.concepts.styles[0]
    prompt = studio.default.concepts.prompt(studio.config.noise_prompt, style)
    cond: dict[str, Any] = {**studio.encode([prompt])}
    # The straight-through clamp departs from the derivative on purpose, and a white background has
    # a kink of the hard one in every pixel, which a difference would step across.
    decode = copy.copy(studio.decode)
    decode.clamp = "none"
    objective = nn.Sequential(decode, studio.metric(studio.config.noise_target))
    return certify(
        studio.sampler,
        studio.noise(1, generator),
        objective,
        num_directions=3,
        step=1e-6,
        derivatives="central",
        seed=studio.config.seed,
        **cond,
    )


def optimize_noise(studio: Studio) -> Story:
    """Turn the noise of a picture in each style until the classifier sees the target."""
    config, concepts = studio.config, studio.default.concepts
    styles = list(concepts.styles)
    prompts = [concepts.prompt(config.noise_prompt, style) for style in styles]
    cond = studio.encode(prompts)
    metric = RandomViews(studio.metric(config.noise_target))
    generator = torch.Generator().manual_seed(config.seed)
    noise = project_to_typical(studio.noise(len(styles), generator)).requires_grad_()
    frames = Frames(config.max_train_steps)

    def loss(generator: torch.Generator) -> Tensor:
        images = studio.decode(studio.sampler(noise, **cond))
        frames.take(lambda: images)
        return -metric(images, generator).mean()

    history = optimize(
        {"noise": noise},
        loss,
        config.loop("noise"),
        project=lambda: noise.copy_(project_to_typical(noise)),
    )
    frames.take(lambda: studio.decode(studio.sampler(noise, **cond)))
    save_file({"noise": noise.detach().cpu()}, Path(config.output_dir) / "noise.safetensors")
    rows = studio.rows([f"style {style}" for style in styles], config.noise_target, frames.kept)
    return Story("noise", prompts[0], frames.numbers, rows, history)


def optimize_embedding(studio: Studio) -> Story:
    """Find the embedding of a thing, starting from the words for another.

    Every update sees new noises; the pictures of the story are drawn from others, which no update
    has seen.
    """
    config, concepts = studio.config, studio.default.concepts
    prompt = concepts.prompt(config.embedding_prompt, concepts.styles[0])
    cond = studio.encode([prompt])
    embedding = cond["encoder_hidden_states"].detach().clone().requires_grad_()
    metric = RandomViews(studio.metric(config.embedding_target))
    unseen = studio.noise(4, torch.Generator().manual_seed(config.seed + UNSEEN_SEED))
    frames = Frames(config.max_train_steps)

    def draw(noise: Tensor) -> Tensor:
        batch = {key: value.expand(len(noise), -1, -1) for key, value in cond.items()}
        batch["encoder_hidden_states"] = embedding.expand(len(noise), -1, -1)
        return studio.decode(studio.sampler(noise, **batch))

    def loss(generator: torch.Generator) -> Tensor:
        frames.take(lambda: draw(unseen))
        images = draw(studio.noise(config.batch_size, generator))
        return -metric(images, generator).mean()

    history = optimize(
        {"encoder_hidden_states": embedding},
        loss,
        config.loop("embedding"),
    )
    frames.take(lambda: draw(unseen))
    save_file(
        {"encoder_hidden_states": embedding.detach().cpu()},
        Path(config.output_dir) / "embedding.safetensors",
    )
    labels = [f"unseen noise {i + 1}" for i in range(len(unseen))]
    rows = studio.rows(labels, config.embedding_target, frames.kept)
    return Story("embedding", prompt, frames.numbers, rows, history)


@dataclass
class Frames:
    """Pictures kept on the way, at about even distances and at both ends.

    Args:
        num_updates: how many updates there will be.
    """

    num_updates: int
    kept: list[Tensor] = field(default_factory=list)
    _taken: int = 0

    @property
    def numbers(self) -> list[int]:
        """After how many updates a frame is kept."""
        last = NUM_FRAMES - 1
        return sorted({round(i * self.num_updates / last) for i in range(NUM_FRAMES)})

    def take(self, draw: Callable[[], Tensor]) -> None:
        """Keep what ``draw`` returns, if a frame is due; to be called once before every update."""
        if self._taken in self.numbers:
            with torch.no_grad():
                self.kept.append(draw().detach())
        self._taken += 1
