"""From a diffusers pipeline to a differentiable sampler and decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from ..gradients import GradientMethod
from ..plan import Plan
from ..sampler import Sampler
from . import stable_diffusion
from .decode import Decoder
from .sampling import SamplingConfig

Adapter = Callable[[Any, SamplingConfig], tuple[Sampler, Decoder]]

ADAPTERS: dict[str, Adapter] = {
    "StableDiffusionPipeline": stable_diffusion.adapt,
}
"""The pipelines that are known, by the name of their class; a new family is one more entry."""

PROMPT_ENCODERS: dict[str, Callable[..., dict[str, Any]]] = {
    "StableDiffusionPipeline": stable_diffusion.encode_prompt,
}

__all__ = ["Decoder", "encode_prompt", "from_pipeline"]


def _entry(registry: dict[str, Any], pipe: Any) -> Any:
    name = type(pipe).__name__
    if name not in registry:
        raise ValueError(
            f"{name} has no adapter; known are {', '.join(sorted(registry))}. For another model, "
            "build the sampler from its parts: Sampler(Denoiser(network, Schedule.from_config("
            "pipe.scheduler.config), prediction_type), Plan.from_scheduler(pipe.scheduler, steps))"
        )
    return registry[name]


def from_pipeline(
    pipe: Any,
    num_inference_steps: int = 25,
    guidance_scale: float = 7.5,
    *,
    scheduler: Any | None = None,
    plan: Plan | None = None,
    gradient: GradientMethod | None = None,
    guidance_rescale: float = 0.0,
    guidance_passes: Literal["batched", "sequential"] = "batched",
    eta: float = 0.0,
) -> tuple[Sampler, Decoder]:
    """Take a diffusers pipeline apart into a differentiable sampler and decoder.

    ``decode(sampler(noise, **encode_prompt(pipe, prompt)))`` gives the pictures that
    ``pipe(prompt, latents=noise)`` gives, and every step of it can be differentiated. The modules
    are those of the pipeline itself, not copies: freeze what is not trained with
    ``pipe.unet.requires_grad_(False)``, since weight gradients cost as much as all others together.

    Args:
        pipe: the pipeline; see `ADAPTERS` for the classes that are known.
        num_inference_steps: number of sampling steps.
        guidance_scale: weight of classifier-free guidance; 1 or less for none, as in diffusers.
        scheduler: a diffusers scheduler to use in place of ``pipe.scheduler``.
        plan: a plan to use in place of any scheduler, such as one of `solvers.build`.
        gradient: the gradient method; `Exact` by default.
        guidance_rescale: see `Denoiser`.
        guidance_passes: ``sequential`` halves the activation memory of guidance; see `Denoiser`.
        eta: passed to schedulers whose ``step`` takes it, as the pipeline does.

    Returns:
        The sampler, to be called as ``sampler(noise, encoder_hidden_states=prompt_embeds,
        negative_encoder_hidden_states=negative_prompt_embeds)``, and the decoder from latents to
        pictures in [0, 1].

    Raises:
        ValueError: the pipeline's class or a setting of its scheduler is not supported.
    """
    adapt = _entry(ADAPTERS, pipe)
    return adapt(
        pipe,
        SamplingConfig(
            scheduler=scheduler if scheduler is not None else pipe.scheduler,
            num_inference_steps=num_inference_steps,
            plan=plan,
            guidance_scale=max(guidance_scale, 1.0),
            guidance_rescale=guidance_rescale,
            guidance_passes=guidance_passes,
            eta=eta,
            gradient=gradient,
        ),
    )


def encode_prompt(
    pipe: Any,
    prompt: str | list[str],
    negative_prompt: str | list[str] | None = None,
    *,
    guidance: bool = True,
) -> dict[str, Any]:
    """Return the conditioning of a prompt, ready to be passed on as ``sampler(noise, **...)``.

    Gradients flow through the text encoder where its weights require grad.

    Args:
        pipe: the pipeline.
        prompt: one prompt, or one for each sample of the batch.
        negative_prompt: what guidance leads away from; the empty prompt by default.
        guidance: whether the sampler has guidance and so needs the negative conditioning.

    Returns:
        ``encoder_hidden_states`` and, with guidance, ``negative_encoder_hidden_states``, each of
        shape (len(prompt), tokens, dim).
    """
    return _entry(PROMPT_ENCODERS, pipe)(pipe, prompt, negative_prompt, guidance=guidance)
