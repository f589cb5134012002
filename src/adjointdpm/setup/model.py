"""The model of a job: loaded, frozen, and taken apart into sampler and decoder."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import solvers
from ..assets import Default, load_default
from ..decoding import Decoder
from ..formats import Provenance
from ..gradients import Exact, GradientMethod
from ..pipelines import encode_prompt, freeze, from_pipeline, latent_shape, load_pipeline
from ..plan import CounterNoise
from ..sampler import Sampler
from .config import SamplerConfig


@dataclass(frozen=True)
class Model:
    """A pipeline, ready to draw.

    Args:
        pipe: the pipeline, frozen.
        sampler: draws its latents.
        decode: makes pictures of them.
        default: the embedded model and its classifiers, if they were loaded.
        provenance: what files say of the model.
        device: where it is.
        guided: whether classifier-free guidance takes part.
        in_single_steps: whether DDIM draws, in place of the pipeline's own scheduler.
    """

    pipe: Any
    sampler: Sampler
    decode: Decoder
    default: Default | None
    provenance: Provenance
    device: torch.device
    guided: bool
    in_single_steps: bool = False

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one latent."""
        return latent_shape(self.pipe)[1:]

    def encode(self, prompts: list[str], negative_prompt: str | None = None) -> dict[str, Any]:
        """Return the conditioning of prompts, all with the same negative one."""
        negative = None if negative_prompt is None else [negative_prompt] * len(prompts)
        with torch.no_grad():
            return encode_prompt(self.pipe, prompts, negative, guidance=self.guided)

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Return standard-normal latents, the same on every device."""
        return torch.randn(count, *self.latent_shape, generator=generator).to(self.device)

    def on_the_way(self, noise: Tensor) -> CounterNoise | None:
        """Return what a stochastic sampler draws on the way of each noise; None for others.

        The noise itself is the seed. So it has one picture, before an update and after it, alone or
        in a batch, in one process or several; where it is optimised, that of the start is kept.

        Args:
            noise: (batch, ...) latents.
        """
        if not self.sampler.plan.num_draws:
            return None
        return CounterNoise([zlib.crc32(row.numpy().tobytes()) for row in noise.detach().cpu()])

    def sample(self, noise: Tensor, **cond: Any) -> Tensor:
        """Return the latents of noises, each with what is drawn on its way."""
        return self.sampler(noise, generator=self.on_the_way(noise), **cond)

    def by_single_steps(self) -> Model:
        """Return the same with DDIM at the times of the sampler, whose steps can be repeated."""
        return replace(self, sampler=one_step_sampler(self.sampler), in_single_steps=True)

    def draws(self, noise: Tensor) -> Tensor | None:
        """Return all that is drawn on the way of noises, (num_draws, batch, ...), for a file."""
        source = self.on_the_way(noise)
        if source is None:
            return None
        return torch.stack([source(i, noise) for i in range(self.sampler.plan.num_draws)])


def load_model(
    config: SamplerConfig,
    device: torch.device,
    gradient: GradientMethod | None = None,
    *,
    with_default: bool = False,
) -> Model:
    """Load the model of a job.

    Args:
        config: settings.
        device: where to put it.
        gradient: the gradient method; `Exact` within the memory budget by default.
        with_default: load the embedded classifiers too, though the pipeline is another.

    Raises:
        ValueError: the pipeline cannot be taken apart.
    """
    name = config.pretrained_model_name_or_path
    default = load_default(device=device) if name is None or with_default else None
    if name is None:
        assert default is not None
        pipe = default.pipeline
    else:
        pipe = freeze(load_pipeline(name, dtype=torch.float32).to(device))
    sampler, decode = from_pipeline(
        pipe,
        config.num_inference_steps,
        config.guidance_scale,
        gradient=gradient or Exact(memory_budget=config.memory_budget),
    )
    embedded = "the embedded model of adjointdpm" if name is None else None
    provenance = Provenance.of(pipe, base_model=embedded)
    guided = config.guidance_scale > 1
    return Model(pipe, sampler, decode, default, provenance, device, guided)


def one_step_sampler(sampler: Sampler) -> Sampler:
    """Return DDIM at the times of a sampler, whose own steps may read more than the latent."""
    plan, denoiser = sampler.plan, sampler.denoiser
    times = plan.timesteps[list(plan.step_starts or ())].tolist()
    ddim = solvers.build(
        "ddim",
        denoiser.schedule,
        len(times),
        timesteps=times,
        prediction_type=denoiser.prediction_type,
    )
    return Sampler(denoiser, ddim, sampler.gradient)
