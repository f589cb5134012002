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

| family | pipeline | gradients for | to |
|---|---|---|---|
"""

SCHEDULERS = """
## Schedulers

Besides the scheduler that a family is built with (first), these were run in the stock pipeline and
read by `Plan.from_scheduler`; the latents agree to 1e-4 of their largest value. Any other scheduler
whose `step` is linear in the network's output is read the same way, or refused with the reason.

| family | schedulers |
|---|---|
"""


@dataclass
class Found:
    """What the tests found of one family."""

    pipeline: str = ""
    scheduler: str = ""
    schedulers: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    tolerances: list[str] = field(default_factory=list)


def document(found: dict[str, Found]) -> str:
    """Return the page."""
    rows = [
        f"| {name} | `{one.pipeline}` | {', '.join(one.inputs)} | {', '.join(one.tolerances)} |"
        for name, one in found.items()
    ]
    schedulers = [
        f"| {name} | {', '.join(dict.fromkeys([one.scheduler, *one.schedulers]))} |"
        for name, one in found.items()
    ]
    return HEAD + "\n".join(rows) + "\n" + SCHEDULERS + "\n".join(schedulers) + "\n"
