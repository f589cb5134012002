"""The demo: what a gradient through the complete sampler can do, on the embedded model.

Two stories. In the first the noise is optimised and the words stay; in the second the words'
embedding is optimised and the noise changes with every step. Both follow the gradient of a
classifier's log-probability through decoder and sampler.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...assets import Default, assets_folder, load_default, read_concepts
from ...certificate import Certificate
from ...decoding import Decoder
from ...evaluation import Reading, read_pictures
from ...formats import Noise, PromptEmbeds, save_noise, save_prompt_embeds
from ...gradients import Exact
from ...objectives import ClassifierLogProbability, RandomViews, find_label
from ...pipelines import encode_prompt, from_pipeline
from ...runs import History, choose_device, environment, optimize, peak_memory, run_folder
from ...sampler import Sampler
from ...setup import certify_gradient
from ...variables import project_to_typical
from .config import DemoConfig

NUM_FRAMES = 5
UNSEEN_SEED = 1_000_000
"""Added to the seed of the noises that the embedding is judged on and never optimised on."""


@dataclass(frozen=True)
class Strip:
    """One picture on its way.

    Args:
        label: the style or the noise that it is drawn from.
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
class Part:
    """One of the two optimisations.

    Args:
        name: ``noise`` or ``embedding``, which its files are called by.
        prompt: what the model was asked for.
        frames: the number of updates before each picture of a strip.
        strips: the pictures.
        history: losses and timings.
    """

    name: str
    prompt: str
    frames: list[int]
    strips: list[Strip]
    history: History


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Args:
        config: the settings.
        noise: the optimisation of the noise.
        embedding: the optimisation of the text embedding.
        certificate: how right the gradient with respect to the noise is.
        network_calls: how often each sampling run calls the network.
        seconds: how long the whole demo took.
        peak_memory: the most bytes that were held.
        environment: versions and machine.
    """

    config: DemoConfig
    noise: Part
    embedding: Part
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
class Model:
    """The loaded model, ready to draw."""

    config: DemoConfig
    default: Default
    sampler: Sampler
    decode: Decoder
    device: torch.device

    @classmethod
    def load(cls, config: DemoConfig, device: torch.device) -> Model:
        """Load the model."""
        default = load_default(config.assets, device)
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

    def strips(self, labels: list[str], target: str, frames: list[Tensor]) -> list[Strip]:
        """Return the strips of pictures whose frames are each (strips, 3, height, width)."""

        def read(images: Tensor) -> list[Reading]:
            default = self.default
            return read_pictures(images, target, default.classifier, default.judge)

        pictures = torch.stack(frames, dim=1).cpu()
        ends = zip(labels, pictures, read(frames[0]), read(frames[-1]), strict=True)
        return [Strip(*entries) for entries in ends]


def run_demo(config: DemoConfig) -> DemoResult:
    """Optimise the noise and the embedding; write the tensors into ``config.output_dir``.

    Args:
        config: settings.

    Raises:
        ValueError: there is no such device, or the classifiers do not know a target.
        OSError: the folder cannot be used; see `run_folder`.
    """
    started = time.perf_counter()
    device = choose_device(config.device)
    check_targets(config)
    with run_folder(config.output_dir, "demo", overwrite=config.overwrite_output_dir) as folder:
        model = Model.load(config, device)
        certificate = certify_first(model)
        noise = optimize_noise(model, folder)
        embedding = optimize_embedding(model, folder)
    return DemoResult(
        config=config,
        noise=noise,
        embedding=embedding,
        certificate=certificate,
        network_calls=model.sampler.plan.num_calls,
        seconds=time.perf_counter() - started,
        peak_memory=peak_memory(device),
        environment=environment(device),
    )


def check_targets(config: DemoConfig) -> None:
    """Raise unless the classifiers know the targets, before anything is loaded or removed.

    Raises:
        ValueError: they do not; the message names near ones.
    """
    folder = assets_folder(config.assets)
    labels = [concept.label for concept in read_concepts(folder / "concepts.json").concepts]
    for target in (config.noise_target, config.embedding_target):
        find_label(labels, target)


def certify_first(model: Model) -> Certificate:
    """Compare the gradient of the first picture with central differences of sampling runs."""
    generator = torch.Generator().manual_seed(model.config.seed)
    style = model.default.concepts.styles[0]
    prompt = model.default.concepts.prompt(model.config.noise_prompt, style)
    metric = model.metric(model.config.noise_target)
    noise, cond = model.noise(1, generator), model.encode([prompt])
    return certify_gradient(model.sampler, model.decode, metric, noise, model.config.seed, **cond)


def optimize_noise(model: Model, folder: Path) -> Part:
    """Turn the noise of a picture in each style until the classifier sees the target."""
    config, concepts = model.config, model.default.concepts
    styles = list(concepts.styles)
    prompts = [concepts.prompt(config.noise_prompt, style) for style in styles]
    cond = model.encode(prompts)
    metric = RandomViews(model.metric(config.noise_target))
    generator = torch.Generator().manual_seed(config.seed)
    noise = project_to_typical(model.noise(len(styles), generator)).requires_grad_()
    frames = Frames(config.max_train_steps)

    def loss(generator: torch.Generator) -> Tensor:
        images = model.decode(model.sampler(noise, **cond))
        frames.take(lambda: images)
        return -metric(images, generator).mean()

    history = optimize(
        {"noise": noise},
        loss,
        config.loop("noise"),
        project=lambda: noise.copy_(project_to_typical(noise)),
    )
    frames.take(lambda: model.decode(model.sampler(noise, **cond)))
    save_noise(
        folder / "noise.safetensors",
        Noise(
            noise,
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            prompt=prompts,
            seed=config.seed,
        ),
    )
    strips = model.strips([f"style {style}" for style in styles], config.noise_target, frames.kept)
    return Part("noise", prompts[0], frames.numbers, strips, history)


def optimize_embedding(model: Model, folder: Path) -> Part:
    """Find the embedding of a thing, starting from the words for another.

    Every update sees new noises; the pictures of the report are drawn from others, which no update
    has seen.
    """
    config, concepts = model.config, model.default.concepts
    prompt = concepts.prompt(config.embedding_prompt, concepts.styles[0])
    cond = model.encode([prompt])
    embedding = cond["encoder_hidden_states"].detach().clone().requires_grad_()
    metric = RandomViews(model.metric(config.embedding_target))
    unseen = model.noise(4, torch.Generator().manual_seed(config.seed + UNSEEN_SEED))
    frames = Frames(config.max_train_steps)

    def draw(noise: Tensor) -> Tensor:
        batch = {key: value.expand(len(noise), -1, -1) for key, value in cond.items()}
        batch["encoder_hidden_states"] = embedding.expand(len(noise), -1, -1)
        return model.decode(model.sampler(noise, **batch))

    def loss(generator: torch.Generator) -> Tensor:
        frames.take(lambda: draw(unseen))
        images = draw(model.noise(config.batch_size, generator))
        return -metric(images, generator).mean()

    history = optimize(
        {"encoder_hidden_states": embedding},
        loss,
        config.loop("embedding"),
    )
    frames.take(lambda: draw(unseen))
    save_prompt_embeds(
        folder / "embedding.safetensors",
        PromptEmbeds(
            {"encoder_hidden_states": embedding},
            prompt=prompt,
            guidance_scale=config.guidance_scale,
            num_inference_steps=config.num_inference_steps,
        ),
    )
    labels = [f"unseen noise {i + 1}" for i in range(len(unseen))]
    strips = model.strips(labels, config.embedding_target, frames.kept)
    return Part("embedding", prompt, frames.numbers, strips, history)


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
