"""Where pictures come from: a pipeline, which draws them one seed each, or a folder."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ... import solvers
from ...assets import assets_folder, load_default, read_concepts
from ...features import from_pil
from ...pipelines import encode_prompt, from_pipeline, latent_shape, load_pipeline, scheduler_of
from ...sampler import Sampler
from .config import FidConfig

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class DrawnPictures:
    """The pictures of a pipeline, in batches.

    Args:
        config: settings.
        device: where they are drawn.

    Raises:
        ValueError: a pipeline, scheduler, solver or list of prompts that cannot be used.
    """

    def __init__(self, config: FidConfig, device: torch.device) -> None:
        name = config.pretrained_model_name_or_path
        if name is None:
            pipe = load_default(device=device).pipeline
        else:
            pipe = load_pipeline(name, dtype=torch.float32).to(device)
        self._config, self._pipe, self._device = config, pipe, device
        scheduler = None if config.scheduler is None else scheduler_of(pipe, config.scheduler)
        steps = config.num_inference_steps
        sampler, self._decode = from_pipeline(
            pipe, steps, config.guidance_scale, scheduler=scheduler
        )
        if config.solver is not None:
            denoiser = sampler.denoiser
            plan = solvers.build(
                config.solver,
                denoiser.schedule,
                steps,
                config.spacing,
                denoiser.prediction_type,
            )
            sampler = Sampler(denoiser, plan)
        self.sampler = sampler
        self.prompts = _prompts(config, pipe)
        if len(latent_shape(pipe)) != 4:
            raise ValueError(f"{type(pipe).__name__} draws no pictures; FID is of pictures")

    def __iter__(self) -> Iterator[Tensor]:
        """Yield batches (batch, 3, height, width) in [0, 1]."""
        count, size = self._config.num_images, self._config.batch_size
        for start in tqdm(range(0, count, size), desc="drawing", unit="batch"):
            yield self.draw(range(start, min(start + size, count)))

    @torch.no_grad()
    def draw(self, numbers: Sequence[int]) -> Tensor:
        """Return pictures by their numbers, each from a seed of its own."""
        generators = [torch.Generator().manual_seed(self._config.seed + i) for i in numbers]
        shape = latent_shape(self._pipe)[1:]
        noise = torch.stack([torch.randn(shape, generator=each) for each in generators])
        cond: dict[str, Any] = {}
        if self.prompts:
            chosen = [self.prompts[i % len(self.prompts)] for i in numbers]
            guided = self._config.guidance_scale > 1
            cond = encode_prompt(self._pipe, chosen, guidance=guided)
        latents = self.sampler(noise.to(self._device), generator=generators, **cond)
        return self._decode(latents)


def _prompts(config: FidConfig, pipe: Any) -> list[str | int]:
    """Return what pictures are of, one after the other; nothing for unconditional pipelines."""
    taken = inspect.signature(type(pipe).__call__).parameters
    lines = None if config.prompts is None else Path(config.prompts).read_text("utf-8").split("\n")
    given = [line.strip() for line in lines or [] if line.strip()]
    if lines is not None and not given:
        raise ValueError(f"{config.prompts} holds no prompts")
    if "class_labels" in taken:
        classes = range(pipe.transformer.config.num_embeds_ada_norm)
        return [int(c) if c.isdigit() else c for c in given] or list(classes)
    if "prompt" not in taken:
        if given:
            raise ValueError(f"{type(pipe).__name__} is unconditional: leave prompts out")
        return []
    if given:
        return list(given)
    if config.pretrained_model_name_or_path is not None:
        raise ValueError("nothing says what the pictures are of: set prompts, a text file")
    return list(training_captions())


def training_captions() -> list[str]:
    """Return the captions that the embedded model was trained on, of concepts with a word."""
    known = read_concepts(assets_folder() / "concepts.json")
    return [
        known.prompt(concept.name, style)
        for concept in known.concepts
        for style in known.styles
        if style not in concept.held_out_styles
    ]


class FolderPictures:
    """The pictures of a folder, in batches of one size each, in the order of their names.

    Args:
        folder: whose pictures; those of folders in it are left out.
        batch_size: how many are looked at together.

    Raises:
        FileNotFoundError: there is no such folder, or no picture in it.
    """

    def __init__(self, folder: Path, batch_size: int) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is neither a folder nor a statistics file (.npz)")
        self._batch_size = batch_size
        self.paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS)
        if not self.paths:
            raise FileNotFoundError(f"{folder} holds no pictures ({', '.join(EXTENSIONS)})")

    def __iter__(self) -> Iterator[Tensor]:
        """Yield batches (batch, 3, height, width) in [0, 1]."""
        batch: list[Tensor] = []
        for path in tqdm(self.paths, desc="reading", unit="picture"):
            with Image.open(path) as image:
                picture = from_pil(image)
            if batch and (len(batch) == self._batch_size or batch[0].shape != picture.shape):
                yield torch.stack(batch)
                batch = []
            batch.append(picture)
        yield torch.stack(batch)
