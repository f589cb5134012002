"""Image to image: the last steps of a sampler, from a noised picture (SDEdit, arXiv 2108.01073)."""

from __future__ import annotations

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
