"""Image to image: the last steps of a sampler, from a noised picture (SDEdit, arXiv 2108.01073)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..decoding import Decoder
from ..denoiser import Denoiser
from ..gradients import GradientMethod
from ..plan import Plan
from ..sampler import Sampler


class ImageToImageSampler(Sampler):
    """A sampler that starts from ``alpha * image_latents + sigma * noise``.

    It is differentiable in the picture's latents as in the noise.

    Args:
        denoiser: the network.
        plan: the steps, the first of them at the time to which the picture is noised.
        gradient: the gradient method; `Exact` by default.
        start: the alpha and sigma with which the picture and the noise enter the plan; those of the
            denoiser's schedule at the plan's first time by default.
        check_finite: see `Sampler`.

    >>> from adjointdpm import Schedule, solvers
    >>> schedule = Schedule.vp_linear()
    >>> denoiser = Denoiser(lambda x, t: 0 * x, schedule, "sample")
    >>> times = [0.5, 0.2, 0.1]
    >>> plan = solvers.build("ddim", schedule, 3, timesteps=times, prediction_type="sample")
    >>> sampler = ImageToImageSampler(denoiser, plan)
    >>> noise, picture = torch.randn(2, 3), torch.ones(2, 3, requires_grad=True)
    >>> sample = sampler(noise, image_latents=picture)
    >>> torch.autograd.grad(sample.sum(), picture)[0].shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        plan: Plan,
        gradient: GradientMethod | None = None,
        *,
        start: tuple[float, float] | None = None,
        check_finite: bool = True,
    ) -> None:
        super().__init__(denoiser, plan, gradient, check_finite=check_finite)
        if start is None:
            first, scale = float(plan.timesteps[0]), float(plan.table[0, 0])
            start = denoiser.schedule.alpha(first) / scale, denoiser.schedule.sigma(first) / scale
        self.start = start

    def forward(  # type: ignore[override]  # a sampler that also needs a picture
        self, noise: Tensor, *, image_latents: Tensor, **arguments: Any
    ) -> Tensor:
        """Return the samples that start from a picture.

        Args:
            noise: (batch, ...) standard-normal latent.
            image_latents: (batch or 1, ...) latents of the picture, such as those of
                `encode_image`.
            **arguments: of `Sampler.forward`, the conditioning among them.

        Returns:
            (batch, ...) samples.

        Raises:
            ValueError: the latents have another shape than the noise; and see `Sampler.forward`.
        """
        if image_latents.shape[1:] != noise.shape[1:] or len(image_latents) not in (1, len(noise)):
            raise ValueError(
                f"image_latents of shape {tuple(image_latents.shape)} do not fit noise of shape "
                f"{tuple(noise.shape)}: they must be latents (encode_image(pipe, image)), one or "
                "one for each sample"
            )
        dtype = torch.promote_types(noise.dtype, torch.float32)
        alpha, sigma = self.start
        return super().forward(
            alpha * image_latents.to(dtype) + sigma * noise.to(dtype), **arguments
        )


def first_timestep(
    scheduler: Any, num_inference_steps: int, strength: float, rounds_up: bool = False
) -> int:
    """Return how many timesteps image-to-image of a ``strength`` leaves out, as diffusers does.

    Args:
        scheduler: of the pipeline.
        num_inference_steps: of the whole way from noise.
        strength: the share of them to take.
        rounds_up: whether part of a step counts as one; see `Family`.

    Raises:
        ValueError: the strength is not in (0, 1], or leaves no step.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be in (0, 1], not {strength}")
    share = num_inference_steps * strength
    steps = math.ceil(share) if rounds_up else math.floor(share)
    if steps == 0:
        raise ValueError(
            f"strength={strength} leaves none of {num_inference_steps} steps; it must be at least "
            f"{1 / num_inference_steps:.3g}, or num_inference_steps larger"
        )
    return int((num_inference_steps - steps) * getattr(scheduler, "order", 1))


def start_of(
    scheduler: Any, num_inference_steps: int, begin: int, set_timesteps: Mapping[str, Any]
) -> tuple[float, float]:
    """Return the alpha and sigma of a scheduler's own noising, in units of its plan's noise.

    They are read from the scheduler, since some round the timestep of a sigma.
    """
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(num_inference_steps, **set_timesteps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    timestep = scheduler.timesteps[begin : begin + 1]
    one, zero = torch.tensor([[[[1.0]], [[0.0]]]], dtype=torch.float64).unbind(1)
    if hasattr(scheduler, "scale_noise"):
        alpha = scheduler.scale_noise(one, timestep, zero)
        sigma = scheduler.scale_noise(zero, timestep, one)
    else:
        alpha = scheduler.add_noise(one, zero, timestep)
        sigma = scheduler.add_noise(zero, one, timestep)
    scale = float(getattr(scheduler, "init_noise_sigma", 1.0))
    return float(alpha) / scale, float(sigma) / scale


def to_latents(decoder: Decoder, images: Tensor) -> Tensor:
    """Return the latents that ``decoder`` would make ``images`` of: the mode of the encoder.

    Args:
        decoder: of a pipeline.
        images: (batch, channels, height, width) in [0, 1].

    Raises:
        ValueError: the autoencoder has no encoder, or is not called in the common way.
    """
    vae = decoder.vae
    if not hasattr(vae, "encode") or type(decoder).decode is not Decoder.decode:
        raise ValueError(
            f"there is no encoder known for {type(vae).__name__} in {type(decoder).__name__}; "
            "encode the picture with the pipeline's own functions"
        )
    encoded = vae.encode((2 * images - 1).to(next(vae.parameters()).dtype))
    latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    latents = latents.to(images.dtype)
    return (latents - decoder.shift_factor.to(latents)) * decoder.scaling_factor.to(latents)
