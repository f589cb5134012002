"""The page that says which pipelines work, made from what the tests found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "pipelines.md"

HEAD = """\
# Pipelines

This page is written by the tests (`pytest tests/pipelines --write_docs`), and they fail where it is
not what they find. Each family is built tiny, with random weights, and compared with the stock
pipeline of diffusers: latents and pictures to 1e-5 of their largest value, and the gradient of
every input in the table with autograd through the stock `__call__` without its `no_grad`, to the
tolerance in the table (float32, and float64 where the stock pipeline runs in it).

```python
sampler, decode = adp.from_pipeline(pipe, num_inference_steps=25, guidance_scale=7.5)
noise = torch.randn(adp.latent_shape(pipe))
images = decode(sampler(noise, **adp.encode_prompt(pipe, "a red apple")))
```

The last column is for the stock call itself, whose gradients are those of autograd to 1e-9 in
float64 (to 1e-4 in float32, where the pipeline does not run in float64):

```python
with adp.differentiable(pipe):
    images = pipe("a red apple", latents=noise, output_type="pt").images
```

It needs no adapter, so it works for pipelines that are not in the table too. Some were compared in
the same way (`tests/pipelines/test_without_adapter.py`, `test_stock_call.py`): inpainting with
Stable Diffusion, SDXL and Flux, InstructPix2Pix, GLIGEN, perturbed attention, LTX-Video from a
picture, LTX's latent upsampling, and Kandinsky 2.2 from text, a pipeline that is made of two.
Refused, with the reason and before the network runs, are pipelines that answer in NumPy, that take
gradients of their own between steps (with `Backprop` they work), or that cast their autoencoder on
the way.

## What is trained

```python
adp.freeze(pipe)  # nothing: the noise, a prompt or a picture is optimised
weights = adp.trainable(pipe, "unet")  # a component, or a part of one: "unet.mid_block"
weights = adp.add_lora(pipe, rank=8)  # an adapter
```

`load_pipeline` gives frozen pipelines. What `from_pretrained` gives has every weight requiring
grad, and a gradient of the noise then computes those of all weights too, and keeps them:
`from_pipeline` and `differentiable` warn of that with the numbers. Words of an encoder that is
trained serve for any number of gradients until its weights change; then `encode_prompt` has to be
called again, and says so.

## What was compared

| family | pipeline | gradients for | to | `differentiable` |
|---|---|---|---|---|
"""

SCHEDULERS = """
## Schedulers

Besides the scheduler that a family is built with (first), these were run in the stock pipeline and
read by `Plan.from_scheduler`; the latents agree to 1e-4 of their largest value. Any other scheduler
whose `step` is linear in the network's output is read the same way, or refused with the reason.

| family | schedulers |
|---|---|
"""

PICTURES = """
## Pictures as inputs

Each of these can receive a gradient.

```python
# Image to image: the last 60 % of the steps, from a noised picture, in any family. (Where it calls
# its autoencoder in a way of its own, as for videos, encode_image says so; encode it yourself.)
sampler, decode = adp.from_pipeline(pipe, strength=0.6)
sample = sampler(noise, image_latents=adp.encode_image(pipe, picture), **cond)

# ControlNet; a list of pictures for several. `edges` is (batch, 3, height, width) in [0, 1].
cond = adp.encode_prompt(
    pipe, prompt, control_image=edges, controlnet_conditioning_scale=0.8, height=512, width=512
)

# IP-Adapter, loaded with pipe.load_ip_adapter. A tensor is what the image encoder is to see: of
# its size, and normalised.
cond = adp.encode_prompt(pipe, prompt, ip_adapter_image=picture)

# The decoder of Kandinsky 2.2, whose prompt is what a prior made of one.
cond = adp.encode_prompt(pipe, image_embeds, negative_image_embeds)
```
"""


@dataclass
class Found:
    """What the tests found of one family."""

    pipeline: str = ""
    scheduler: str = ""
    schedulers: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    tolerances: list[str] = field(default_factory=list)
    stock_call: bool = False


def document(found: dict[str, Found]) -> str:
    """Return the page."""
    rows = [
        f"| {name} | `{one.pipeline}` | {', '.join(one.inputs)} | "
        f"{', '.join(sorted(one.tolerances))} | {'yes' if one.stock_call else 'no'} |"
        for name, one in found.items()
    ]
    schedulers = [
        f"| {name} | {', '.join(dict.fromkeys([one.scheduler, *sorted(one.schedulers)]))} |"
        for name, one in found.items()
    ]
    return HEAD + "\n".join(rows) + "\n" + SCHEDULERS + "\n".join(schedulers) + "\n" + PICTURES
