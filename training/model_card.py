"""The model card: what the embedded model is, what it was made from, how well it does."""

from __future__ import annotations

CARD = """\
---
license: apache-2.0
pipeline_tag: text-to-image
library_name: diffusers
---

# Emoji diffusion

A small Stable Diffusion, trained from scratch on emoji in four drawing styles, and two image
classifiers that read its pictures. It is made for trying out gradients through a whole sampling
run on two CPU cores, and is small enough to live inside a Python package.

| folder | what | class |
|---|---|---|
| `emoji-diffusion/` | text to 64x64 pictures | `StableDiffusionPipeline` |
| `classifier/` | reads the concepts: a differentiable metric | `ResNetForImageClassification` |
| `judge/` | another architecture and seed, to judge what the first was used to optimise | \
`ConvNextV2ForImageClassification` |
| `concepts.json` | the published list: names, styles, wordless concepts, held-out pairs | |

```python
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained("emoji-diffusion")
pipe("red apple, style noto", num_inference_steps=25, guidance_scale={guidance}).images[0]
```

## Words
A caption is `{{name}}, style {{style}}`: the Unicode name of the emoji without hyphens, and one of
`noto`, `twemoji`, `flat`, `3d`. Names in `concepts.json` were trained most. Twelve *wordless*
concepts were trained only as `thing`: the model saw them and has no word for them. The *held-out*
pairs of concept and style were never shown to the diffusion model or to the classifiers.

## Data and attribution
Rendered at 64x64 on white; skin-tone variants, most people, clock faces and text signs left out.

| style | source | licence |
|---|---|---|
| `noto` | [Noto Emoji](https://github.com/googlefonts/noto-emoji), (c) Google | Apache-2.0 |
| `twemoji` | [Twemoji](https://github.com/jdecked/twemoji), (c) Twitter, Inc and contributors \
| CC-BY-4.0 |
| `flat` | [Fluent Emoji](https://github.com/microsoft/fluentui-emoji) flat, (c) Microsoft | MIT |
| `3d` | [Fluent Emoji](https://github.com/microsoft/fluentui-emoji) 3D, (c) Microsoft | MIT |

Twemoji graphics are licensed under
[CC-BY 4.0](https://creativecommons.org/licenses/by/4.0/); they were resized and used as training
data, and pictures of the `twemoji` style may resemble them closely. Names come from
`unicode-emoji-json` (MIT), the Unicode emoji list.

## Training
The classifiers and the first autoencoder on two CPU cores in half an hour, all else on one H200 in
twelve minutes; the scripts and the commands are in `training/`.
- Autoencoder: `AutoencoderKL`, 16x16x4 latents, 0.92 M parameters; L1, squared and edge error, a
  small KL term. Latents have zero mean and unit variance (`scaling_factor` is 1).
- Text encoder (`CLIPTextModel`, 2 layers of 96, own vocabulary) and `UNet2DConditionModel` (2.9 M
  parameters), trained together: v-prediction on the linear schedule, 10 % of captions dropped,
  AdamW, averaged weights. Named and wordless concepts are 85 % of each batch.
- There is one picture of each name in each style, and a model that is shown nothing else draws it
  from every noise. So each is shown moved, shrunk, turned, mirrored, with thicker or thinner lines
  and in slightly other colours, on white: these the noise decides.
- Classifiers: real emoji and their autoencoder reconstructions under strong augmentation; they
  never saw a picture drawn by the diffusion model.
{results}
## Limits
It knows emoji on a white background at 64x64, the words of their names, and nothing else. It was
trained to reproduce a few hundred pictures, and does that in other poses and hues; in new
combinations ("blue apple") the colour mostly comes out and the shape often suffers. Fine structure
(spokes, faces of animals) is often wrong. Guidance above 2 makes pictures of one caption more alike
and their colours harsher.
"""

RESULTS = """
## Numbers
{steps} steps of `{scheduler}`, guidance {guidance}, seed {seed}; one picture of each of
{concepts} named concepts in each style, read by `judge/`, which never saw a drawn picture.

| generated pictures | top-1 | top-5 | pictures |
|---|---|---|---|
{generated}

| real emoji | `judge/` | `classifier/` |
|---|---|---|
{real}

Autoencoder, PSNR of reconstructions: {psnr_trained} dB on emoji it was trained on,
{psnr_held_out} dB on others. Asked for `thing`, {wordless:.0%} of the pictures read as one of
the wordless concepts.

*Diversity* is the mean distance between pictures of one caption from {draws} noises, over
{captions} captions, as a share of the distance between as many pictures of the augmented training
data: 0 where every noise draws the same. By guidance scale:

| guidance | top-1 | held-out pairs | top-1 of the many draws | `thing` is wordless | \
diversity in pixels | in the judge's features |
|---|---|---|---|---|---|---|
{by_guidance}
"""

REAL_ROWS = {
    "unseen_augmentation": "trained pictures, unseen augmentation",
    "held_out_pairs": "held-out pairs",
}


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def results(evaluation: dict) -> str:
    generated = "\n".join(
        f"| {name.replace('_', ' ')} | {percent(row['top1'])} | {percent(row['top5'])} | "
        f"{row['pictures']} |"
        for name, row in evaluation["judge_on_generated"].items()
    )
    judge, classifier = evaluation["real_emoji"]["judge"], evaluation["real_emoji"]["classifier"]
    real = "\n".join(
        f"| {text} | {percent(judge[key])} | {percent(classifier[key])} |"
        for key, text in REAL_ROWS.items()
    )
    by_guidance = "\n".join(
        f"| {scale} | {percent(row['judge_top1'])} | {percent(row['judge_top1_held_out'])} | "
        f"{percent(row['judge_top1_many_draws'])} | {percent(row['read_as_wordless'])} | "
        f"{row['diversity_pixels']:.2f} | {row['diversity_judge_features']:.2f} |"
        for scale, row in evaluation["by_guidance_scale"].items()
    )
    return RESULTS.format(
        by_guidance=by_guidance,
        draws=evaluation["diversity"]["draws"],
        captions=evaluation["diversity"]["captions"],
        steps=evaluation["num_inference_steps"],
        scheduler=evaluation["scheduler"],
        guidance=evaluation["guidance_scale"],
        seed=evaluation["seed"],
        concepts=evaluation["named_concepts"],
        generated=generated,
        real=real,
        psnr_trained=evaluation["vae_psnr_db"]["trained_emoji"],
        psnr_held_out=evaluation["vae_psnr_db"]["held_out_emoji"],
        wordless=evaluation["wordless"]["read_as_wordless"],
    )


def model_card(evaluation: dict | None) -> str:
    """The card as Markdown; without an evaluation it has no numbers."""
    guidance = evaluation["guidance_scale"] if evaluation else 2.0
    return CARD.format(results=results(evaluation) if evaluation else "\n", guidance=guidance)
