"""Draw the published list with an exported folder and let the judge read it: numbers and a sheet.

    python -m training.evaluate --assets training/runs/export --output_dir docs/model

Every named concept is drawn once in every style, with a fixed seed. Wordless concepts have no words
to ask for: "thing" is drawn many times instead, and it is counted how many of them appear.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import AutoModelForImageClassification

from training.augment import augment
from training.concepts import build_concepts
from training.contact_sheet import write_contact_sheet
from training.emoji import load_emoji
from training.train_classifier import accuracy, labelled_pictures
from training.train_vae import held_out_names, mean_psnr, to_model_range

NOVEL_NAMES = (
    "blue apple",
    "green cat face",
    "red penguin",
    "purple sunflower",
    "blue fire engine",
    "pink house",
    "green star",
    "black heart",
    "yellow balloon",
    "orange owl",
)


@torch.no_grad()
def draw(pipeline: StableDiffusionPipeline, prompts: list[str], args, seed: int) -> torch.Tensor:
    """(n, 3, 64, 64) in [-1, 1], as 8-bit pictures would hold them."""
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for start in range(0, len(prompts), args.eval_batch_size):
        pictures.append(
            pipeline(
                prompts[start : start + args.eval_batch_size],
                num_inference_steps=args.num_inference_steps,
                guidance_scale=args.guidance_scale,
                generator=generator,
                output_type="pt",
            ).images.cpu()
        )
    return torch.cat(pictures).mul(255).round().div(127.5).sub(1)


@torch.no_grad()
def ranks(
    classifier: torch.nn.Module, pictures: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Rank of the right class in each picture, 0 being first."""
    logits = torch.cat([classifier(x).logits for x in pictures.split(64)])
    return (logits > logits.gather(1, labels[:, None])).sum(1)


def shares(rank: torch.Tensor) -> dict[str, float | int]:
    return {
        "top1": round(float((rank < 1).float().mean()), 4),
        "top5": round(float((rank < 5).float().mean()), 4),
        "pictures": len(rank),
    }


def real_accuracies(classifier, emoji, concepts) -> dict[str, float | int]:
    torch.manual_seed(10_000)
    pictures, labels = labelled_pictures(emoji, concepts, held_out=False)
    held_out = labelled_pictures(emoji, concepts, held_out=True)
    return {
        "trained_renderings": round(accuracy(classifier, pictures, labels), 4),
        "unseen_augmentation": round(accuracy(classifier, augment(pictures), labels), 4),
        "held_out_pairs": round(accuracy(classifier, *held_out), 4),
        "number_of_held_out_pairs": len(held_out[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, default=Path("training/runs/export"))
    parser.add_argument("--data_dir", type=Path, default=Path("training/runs/data"))
    parser.add_argument("--output_dir", type=Path, default=Path("docs/model"))
    parser.add_argument("--num_inference_steps", type=int, default=25)
    parser.add_argument("--guidance_scale", type=float, default=3.0)
    parser.add_argument("--eval_batch_size", type=int, default=32)
    parser.add_argument("--wordless_draws", type=int, default=32, help="per style")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    emoji = load_emoji(args.data_dir)
    concepts = build_concepts(emoji)
    listing = json.loads((args.assets / "concepts.json").read_text())
    styles, template = listing["styles"], listing["caption_template"]
    pipeline = StableDiffusionPipeline.from_pretrained(args.assets / "emoji-diffusion")
    pipeline.set_progress_bar_config(disable=True)
    classifiers = {
        name: AutoModelForImageClassification.from_pretrained(args.assets / name).float().eval()
        for name in ("judge", "classifier")
    }

    named = [(i, c) for i, c in enumerate(listing["concepts"]) if not c["wordless"]]
    pairs = [(i, c, style) for i, c in named for style in styles]
    prompts = [template.format(name=c["name"], style=style) for _, c, style in pairs]
    started = time.time()
    drawn = draw(pipeline, prompts, args, args.seed)
    seconds = time.time() - started
    labels = torch.tensor([i for i, _, _ in pairs])
    rank = ranks(classifiers["judge"], drawn, labels)
    held_out = torch.tensor([style in c["held_out_styles"] for _, c, style in pairs])
    of_style = {s: torch.tensor([style == s for _, _, style in pairs]) for s in styles}

    prompts = [template.format(name=listing["generic_noun"], style=style) for style in styles]
    things = draw(pipeline, prompts * args.wordless_draws, args, args.seed + 1)
    with torch.no_grad():
        read = torch.cat([classifiers["judge"](x).logits.argmax(1) for x in things.split(64)])
    wordless = {c["label"] for c in listing["concepts"] if c["wordless"]}
    seen = Counter(listing["concepts"][i]["label"] for i in read.tolist())

    vae = AutoencoderKL.from_pretrained(args.assets / "emoji-diffusion" / "vae")
    unseen = held_out_names(emoji)

    def psnr(images: np.ndarray) -> float:
        return round(mean_psnr(vae, to_model_range(images)), 2)

    correct_names = [listing["concepts"][i]["label"] for i in labels[rank == 0].tolist()]
    recognised = Counter(correct_names)
    report = {
        "num_inference_steps": args.num_inference_steps,
        "guidance_scale": args.guidance_scale,
        "scheduler": type(pipeline.scheduler).__name__,
        "seed": args.seed,
        "named_concepts": len(named),
        "seconds_per_picture": round(seconds / len(pairs), 3),
        "judge_on_generated": {
            "all": shares(rank),
            "trained_pairs": shares(rank[~held_out]),
            "held_out_pairs": shares(rank[held_out]),
            **{style: shares(rank[mask]) for style, mask in of_style.items()},
        },
        "classifier_on_generated": shares(ranks(classifiers["classifier"], drawn, labels)),
        "real_emoji": {n: real_accuracies(m, emoji, concepts) for n, m in classifiers.items()},
        "vae_psnr_db": {
            "trained_emoji": psnr(emoji.images[:, ~unseen][:, ::4]),
            "held_out_emoji": psnr(emoji.images[:, unseen]),
        },
        "wordless": {
            "drawn": len(things),
            "read_as_wordless": round(sum(seen[w] for w in wordless) / len(things), 4),
            "counts": {w: seen[w] for w in sorted(wordless)},
        },
        "unrecognised_in_every_style": [c["label"] for _, c in named if not recognised[c["label"]]],
    }
    args.output_dir.mkdir(parents=True, exist_ok=True)
    (args.output_dir / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))

    novel_prompts = [template.format(name=n, style=s) for n in NOVEL_NAMES for s in styles]
    novel = draw(pipeline, novel_prompts, args, args.seed + 2)
    things_by_style = things.unflatten(0, (args.wordless_draws, len(styles)))
    write_contact_sheet(
        args.output_dir / "contact_sheet.png",
        styles,
        [
            ("named concepts (held-out pairs are framed)",
             [c["label"] for _, c in named], drawn.unflatten(0, (-1, len(styles))),
             held_out.unflatten(0, (-1, len(styles)))),
            ("the generic noun", [f"thing {k + 1}" for k in range(12)], things_by_style[:12], None),
            ("combinations that are no emoji", list(NOVEL_NAMES),
             novel.unflatten(0, (-1, len(styles))), None),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
