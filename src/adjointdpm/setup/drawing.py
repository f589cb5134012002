"""The code by which a report says how pictures are drawn from a file of noise."""

from __future__ import annotations

from ..pipelines import packs_latents
from .model import Model


def drawing_code(model: Model, negative_prompt: str | None) -> str:
    """Return code that draws the pictures of ``saved``, a `Noise`, with ``pipe``.

    It is a call of the stock pipeline, unless that would draw noises of its own on the way, takes
    latents in another form, or samples otherwise than the job did.

    Args:
        model: what the job drew with.
        negative_prompt: what the noise was saved with.
    """
    own = model.in_single_steps or model.sampler.plan.num_draws or packs_latents(model.pipe)
    if not own:
        negative = "" if negative_prompt is None else "negative_prompt=saved.negative_prompt, "
        return (
            f"images = pipe(saved.prompt, {negative}latents=saved.noise,\n"
            "              num_inference_steps=saved.num_inference_steps,\n"
            "              guidance_scale=saved.guidance_scale).images"
        )
    lines = [
        "scale = saved.guidance_scale",
        "sampler, decode = adp.from_pipeline(pipe, saved.num_inference_steps, scale)",
        "cond = adp.encode_prompt(pipe, saved.prompt, saved.negative_prompt, guidance=scale > 1)",
        "images = decode(sampler(saved.noise, draws=saved.draws, **cond))",
    ]
    if model.in_single_steps:
        lines.insert(2, "sampler = adjointdpm.setup.one_step_sampler(sampler)")
        lines.insert(0, "import adjointdpm.setup")
    return "\n".join(lines)
