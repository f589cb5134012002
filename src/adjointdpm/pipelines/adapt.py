"""From a diffusers pipeline to a differentiable sampler and decoder."""

from __future__ import annotations

import inspect
import math
from typing import Any, Literal

from torch import Tensor

from ..decoding import Decoder
from ..gradients import GradientMethod
from ..plan import Plan
from ..recompute import refuse_caches
from ..sampler import Sampler
from .families.shifting import require_shape
from .offloading import check_offload, guard_offload
from .reencoding import reusable
from .registry import family_of
from .requests import PromptRequest, SamplingRequest, Size
from .sampling import build_sampler
from .trained import modules_of, warn_of_untrained


def from_pipeline(
    pipe: Any,
    num_inference_steps: int = 25,
    guidance_scale: float = 7.5,
    *,
    scheduler: Any | None = None,
    plan: Plan | None = None,
    gradient: GradientMethod | None = None,
    guidance_scale_2: float | None = None,
    true_cfg_scale: float = 1.0,
    guidance_rescale: float = 0.0,
    guidance_passes: Literal["batched", "sequential"] = "batched",
    eta: float = 0.0,
    strength: float | None = None,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
) -> tuple[Sampler, Decoder]:
    """Take a diffusers pipeline apart into a differentiable sampler and decoder.

    ``decode(sampler(noise, **encode_prompt(pipe, prompt)))`` gives the pictures that
    ``pipe(prompt, latents=noise)`` gives, and every step of it can be differentiated. The modules
    are those of the pipeline itself, not copies. Say what is trained with `freeze` or `trainable`:
    weight gradients cost as much as all others together, and ``from_pretrained`` asks for all.

    Args:
        pipe: the pipeline; see `FAMILIES` for the classes that are known.
        num_inference_steps: number of sampling steps.
        guidance_scale: weight of classifier-free guidance; 1 or less for none, as in diffusers.
        scheduler: a diffusers scheduler to use in place of ``pipe.scheduler``.
        plan: a plan to use in place of any scheduler, such as one of `solvers.build`.
        gradient: the gradient method; `Exact` by default.
        guidance_scale_2: weight of guidance for the second of two transformers (Wan 2.2).
        true_cfg_scale: weight of classifier-free guidance where ``guidance_scale`` is an input of
            the network (Flux); it needs a negative prompt.
        guidance_rescale: see `Denoiser`.
        guidance_passes: ``sequential`` halves the activation memory of guidance; see `Denoiser`.
        eta: passed to schedulers whose ``step`` takes it, as the pipeline does.
        strength: for image to image, the share of the steps that are run, in (0, 1]. The sampler is
            then an `ImageToImageSampler`, called as ``sampler(noise, image_latents=encode_image(
            pipe, image), **cond)``. Pipelines of that kind have a default; None for others.
        height: of the pictures in pixels, where the timesteps depend on it (SD3, Flux, LTX); the
            pipeline's default if None.
        width: of the pictures in pixels.
        num_frames: of a video.

    Returns:
        The sampler, to be called as ``sampler(noise, **cond)`` with noise of `latent_shape` and
        the conditioning of `encode_prompt`, and the decoder from latents to pictures in [0, 1].

    Raises:
        ValueError: the pipeline's class or a setting of its scheduler is not supported.
    """
    family = family_of(pipe)
    check_offload(pipe)
    if not isinstance(gradient, GradientMethod) or gradient.graph_budget != math.inf:
        for name, module in modules_of(pipe).items():
            refuse_caches(module, f"pipe.{name}")
    warn_of_untrained(pipe, stacklevel=2)
    request = SamplingRequest(
        scheduler=scheduler if scheduler is not None else pipe.scheduler,
        num_inference_steps=num_inference_steps,
        plan=plan,
        guidance_scale=guidance_scale,
        guidance_scale_2=guidance_scale_2,
        true_cfg_scale=true_cfg_scale,
        guidance_rescale=guidance_rescale,
        guidance_passes=guidance_passes,
        eta=eta,
        strength=_default_strength(pipe, plan) if strength is None else strength,
        gradient=gradient,
        size=Size(height, width, num_frames),
    )
    if guidance_scale_2 is not None and family.guidance_scale(request) is None:
        raise ValueError(
            "guidance_scale_2 is for pipelines that hand over to a second transformer at a "
            "boundary_ratio (Wan 2.2), and with a guidance_scale above 1; leave it out"
        )
    sampler = guard_offload(build_sampler(family, request))
    if plan is None and "mu" in family.set_timesteps(request):
        require_shape(sampler, family.latent_shape(request.size))
    return sampler, family.decoder(request.size)


def _default_strength(pipe: Any, plan: Plan | None) -> float | None:
    """Return the strength of an image-to-image pipeline; None for one that starts from noise."""
    argument = inspect.signature(type(pipe).__call__).parameters.get("strength")
    if argument is None:
        return None
    return 1.0 if plan is not None else float(argument.default)


def encode_image(pipe: Any, image: Tensor) -> Tensor:
    """Return the latents of pictures, differentiable; the mode of what the autoencoder gives.

    Args:
        pipe: the pipeline.
        image: (batch, 3, height, width) in [0, 1].

    Returns:
        Latents of the shape of `latent_shape`, in the scale of the network, so that decoding them
        gives nearly the pictures back.

    Raises:
        ValueError: the pipeline has no adapter, or its autoencoder is not called in the common way.
    """
    return family_of(pipe).encode_image(image)


def latent_shape(
    pipe: Any,
    batch_size: int = 1,
    *,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
) -> tuple[int, ...]:
    """Return the shape of the noise that the sampler of a pipeline takes.

    Args:
        pipe: the pipeline.
        batch_size: number of samples.
        height: of the pictures in pixels; the pipeline's default if None.
        width: of the pictures in pixels.
        num_frames: of a video.

    Returns:
        (batch, channels, height, width), or what the pipeline's own latents have before packing.
    """
    return (batch_size, *family_of(pipe).latent_shape(Size(height, width, num_frames)))


def encode_prompt(
    pipe: Any,
    prompt: Any,
    negative_prompt: Any = None,
    *,
    guidance: bool = True,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Return the conditioning of a prompt, ready to be passed on as ``sampler(noise, **cond)``.

    Gradients flow through the text encoder where its weights require grad; it is run again in the
    backward pass, so that one conditioning serves for any number of gradients until the weights
    change. For constants, `freeze` the pipeline or call this under ``torch.no_grad()``.

    Args:
        pipe: the pipeline.
        prompt: one prompt, or one for each sample of the batch; class labels for DiT.
        negative_prompt: what guidance leads away from; the empty prompt by default.
        guidance: whether the sampler has guidance and so needs the negative conditioning.
        height: of the pictures in pixels, where the conditioning tells of it (SDXL).
        width: of the pictures in pixels.
        num_frames: of a video.
        **arguments: further arguments of the pipeline's own ``encode_prompt``.

    Returns:
        The conditioning by the names of the network's arguments, such as
        ``encoder_hidden_states`` of shape (len(prompt), tokens, dim), and with guidance the
        negative one of each as ``negative_<name>``.

    Raises:
        ValueError: the pipeline has no adapter, or is unconditional; or there is no prompt.
    """
    if isinstance(prompt, list | tuple) and not prompt:
        raise ValueError("the list of prompts is empty: give one for each sample")
    if prompt is None and not any(name.endswith("embeds") for name in arguments):
        raise ValueError('prompt is None: pass a prompt ("" for the empty one) or prompt_embeds')
    # Diffusers knows lists only.
    prompt, negative_prompt = (
        list(given) if isinstance(given, tuple) else given for given in (prompt, negative_prompt)
    )
    size = Size(height, width, num_frames)
    request = PromptRequest(prompt, negative_prompt, guidance, size, arguments)
    family = family_of(pipe)
    return reusable(lambda: family.encode_prompt(request), modules_of(pipe))
