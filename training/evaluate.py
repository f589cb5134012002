"""Draw the published list with an exported folder and let the judge read it: numbers and sheets.

    python -m training.evaluate --assets training/runs/export --output_dir docs/model

Every named concept is drawn once in every style, with a fixed seed. Wordless concepts have no words
to ask for: "thing" is drawn many times instead, and it is counted how many of them appear. Some
captions are drawn from many noises, to see how much the noise decides.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import nn
from transformers import AutoModelForImageClassification

from training import diversity
from training.augment import augment
from training.concepts import Concept, build_concepts, caption
from training.contact_sheet import Section, write_contact_sheet
from training.emoji import STYLES, EmojiSet, load_emoji
from training.loop import default_device
from training.train_classifier import accuracy, labelled_pictures, read
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
SHEET_DRAWS, SHEET_CAPTIONS = 16, 8


@dataclass(frozen=True)
class Settings:
    """How pictures are drawn and how many of them."""

    num_inference_steps: int
    eval_batch_size: int
    wordless_draws: int
    diversity_draws: int
    seed: int


@dataclass(frozen=True)
class Subject:
    """A model and what it is measured with."""

    pipeline: StableDiffusionPipeline
    classifiers: dict[str, nn.Module]
    emoji: EmojiSet
    concepts: list[Concept]
    noun: str
    settings: Settings

    @classmethod
    def load(cls, assets: Path, data_dir: Path, settings: Settings) -> Subject:
        device = default_device()
        pipeline = StableDiffusionPipeline.from_pretrained(assets / "emoji-diffusion")
        pipeline = pipeline.to(device, torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        classifiers = {
            name: AutoModelForImageClassification.from_pretrained(assets / name)
            .float()
            .eval()
            .to(device)
            for name in ("judge", "classifier")
        }
        emoji = load_emoji(data_dir)
        noun = json.loads((assets / "concepts.json").read_text())["generic_noun"]
        return cls(pipeline, classifiers, emoji, build_concepts(emoji), noun, settings)

    @property
    def judge(self) -> nn.Module:
        return self.classifiers["judge"]

    @property
    def named(self) -> list[Concept]:
        return [c for c in self.concepts if not c.wordless]

    @property
    def pairs(self) -> list[tuple[Concept, str]]:
        return [(c, style) for c in self.named for style in STYLES]

    @torch.no_grad()
    def draw(self, prompts: list[str], guidance_scale: float, seed: int) -> torch.Tensor:
        """(n, 3, 64, 64) in [-1, 1], as 8-bit pictures would hold them."""
        generator = torch.Generator().manual_seed(self.settings.seed + seed)
        size = self.settings.eval_batch_size
        pictures = [
            self.pipeline(
                prompts[start : start + size],
                num_inference_steps=self.settings.num_inference_steps,
                guidance_scale=guidance_scale,
                generator=generator,
                output_type="pt",
            ).images.cpu()
            for start in range(0, len(prompts), size)
        ]
        return torch.cat(pictures).mul(255).round().div(127.5).sub(1)


@dataclass(frozen=True)
class Drawn:
    """All pictures of one evaluation."""

    guidance_scale: float
    named: torch.Tensor
    things: torch.Tensor
    many: torch.Tensor


def draw_all(subject: Subject, guidance_scale: float) -> Drawn:
    settings = subject.settings
    named = subject.draw([caption(c.name, s) for c, s in subject.pairs], guidance_scale, 0)
    things = [caption(subject.noun, style) for style in STYLES] * settings.wordless_draws
    many = diversity.measured_captions(
        diversity.measured_pairs(subject.concepts), settings.diversity_draws
    )
    return Drawn(
        guidance_scale,
        named,
        subject.draw(things, guidance_scale, 1),
        subject.draw(many, guidance_scale, 3),
    )


def ranks(classifier: nn.Module, pictures: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Rank of the right class in each picture, 0 being first."""
    logits = read(classifier, pictures)
    return (logits > logits.gather(1, labels[:, None])).sum(1)


def shares(rank: torch.Tensor) -> dict[str, float | int]:
    return {
        "top1": round(float((rank < 1).float().mean()), 4),
        "top5": round(float((rank < 5).float().mean()), 4),
        "pictures": len(rank),
    }


def named_report(subject: Subject, drawn: Drawn) -> dict[str, Any]:
    labels = torch.tensor([subject.concepts.index(c) for c, _ in subject.pairs])
    held_out = torch.tensor([style in c.held_out_styles for c, style in subject.pairs])
    of_style = {s: torch.tensor([style == s for _, style in subject.pairs]) for s in STYLES}
    rank = ranks(subject.judge, drawn.named, labels)
    recognised = {subject.concepts[i].label for i in labels[rank == 0].tolist()}
    return {
        "judge_on_generated": {
            "all": shares(rank),
            "trained_pairs": shares(rank[~held_out]),
            "held_out_pairs": shares(rank[held_out]),
            **{style: shares(rank[mask]) for style, mask in of_style.items()},
        },
        "classifier_on_generated": shares(
            ranks(subject.classifiers["classifier"], drawn.named, labels)
        ),
        "unrecognised_in_every_style": [
            c.label for c in subject.named if c.label not in recognised
        ],
    }


def wordless_report(subject: Subject, drawn: Drawn) -> dict[str, Any]:
    predicted = read(subject.judge, drawn.things).argmax(1).tolist()
    seen = Counter(subject.concepts[i].label for i in predicted)
    wordless = sorted(c.label for c in subject.concepts if c.wordless)
    return {
        "drawn": len(drawn.things),
        "read_as_wordless": round(sum(seen[w] for w in wordless) / len(drawn.things), 4),
        "counts": {w: seen[w] for w in wordless},
    }


def diversity_report(subject: Subject, drawn: Drawn) -> dict[str, Any]:
    draws = subject.settings.diversity_draws
    pairs = diversity.measured_pairs(subject.concepts)
    torch.manual_seed(20_000)
    shown = diversity.varied_pictures(subject.pipeline.vae, subject.emoji, pairs, draws)
    labels = torch.tensor([subject.concepts.index(c) for c, _ in pairs]).repeat_interleave(draws)
    return {
        "captions": len(pairs),
        "draws": draws,
        "share_of_augmented_data": diversity.shares(subject.judge, drawn.many, shown, draws),
        "judge_top1": round(accuracy(subject.judge, drawn.many, labels), 4),
        "judge_top1_of_augmented_data": round(accuracy(subject.judge, shown, labels), 4),
    }


def summary(subject: Subject, drawn: Drawn) -> dict[str, float]:
    """The numbers to choose a guidance scale by."""
    named, things = named_report(subject, drawn), wordless_report(subject, drawn)
    varied = diversity_report(subject, drawn)
    return {
        "judge_top1": named["judge_on_generated"]["all"]["top1"],
        "judge_top1_held_out": named["judge_on_generated"]["held_out_pairs"]["top1"],
        "judge_top1_many_draws": varied["judge_top1"],
        "read_as_wordless": things["read_as_wordless"],
        "diversity_pixels": varied["share_of_augmented_data"]["pixels"],
        "diversity_judge_features": varied["share_of_augmented_data"]["judge_features"],
    }


def real_accuracies(subject: Subject, classifier: nn.Module) -> dict[str, float | int]:
    torch.manual_seed(10_000)
    pictures, labels = labelled_pictures(subject.emoji, subject.concepts, held_out=False)
    held_out = labelled_pictures(subject.emoji, subject.concepts, held_out=True)
    return {
        "trained_renderings": round(accuracy(classifier, pictures, labels), 4),
        "unseen_augmentation": round(accuracy(classifier, augment(pictures), labels), 4),
        "held_out_pairs": round(accuracy(classifier, *held_out), 4),
        "number_of_held_out_pairs": len(held_out[1]),
    }


def full_report(subject: Subject, drawn: Drawn) -> dict[str, Any]:
    unseen = held_out_names(subject.emoji)

    def psnr(images: np.ndarray) -> float:
        return round(mean_psnr(subject.pipeline.vae, to_model_range(images)), 2)

    return {
        "num_inference_steps": subject.settings.num_inference_steps,
        "guidance_scale": drawn.guidance_scale,
        "scheduler": type(subject.pipeline.scheduler).__name__,
        "seed": subject.settings.seed,
        "named_concepts": len(subject.named),
        **named_report(subject, drawn),
        "real_emoji": {n: real_accuracies(subject, m) for n, m in subject.classifiers.items()},
        "vae_psnr_db": {
            "trained_emoji": psnr(subject.emoji.images[:, ~unseen][:, ::4]),
            "held_out_emoji": psnr(subject.emoji.images[:, unseen]),
        },
        "wordless": wordless_report(subject, drawn),
        "diversity": diversity_report(subject, drawn),
    }


def write_sheets(folder: Path, subject: Subject, drawn: Drawn) -> None:
    """`contact_sheet.png`: the published list; `draws.png`: captions from sixteen noises."""
    width = len(STYLES)
    held_out = torch.tensor([style in c.held_out_styles for c, style in subject.pairs])
    novel_prompts = [caption(n, s) for n in NOVEL_NAMES for s in STYLES]
    novel = subject.draw(novel_prompts, drawn.guidance_scale, 2)
    sections: list[Section] = [
        (
            "named concepts (held-out pairs are framed)",
            [c.label for c in subject.named],
            drawn.named.unflatten(0, (-1, width)),
            held_out.unflatten(0, (-1, width)),
        ),
        (
            "the generic noun",
            [f"{subject.noun} {k + 1}" for k in range(12)],
            drawn.things.unflatten(0, (-1, width))[:12],
            None,
        ),
        (
            "combinations that are no emoji",
            list(NOVEL_NAMES),
            novel.unflatten(0, (-1, width)),
            None,
        ),
    ]
    write_contact_sheet(folder / "contact_sheet.png", list(STYLES), sections)

    many = drawn.many.unflatten(0, (-1, subject.settings.diversity_draws))
    captions = [caption(c.name, s) for c, s in diversity.measured_pairs(subject.concepts)]
    step = max(1, len(captions) // SHEET_CAPTIONS)
    rows = many[::step][:SHEET_CAPTIONS, :SHEET_DRAWS]
    noises = [str(k + 1) for k in range(rows.shape[1])]
    title = f"captions, each from {len(noises)} noises"
    write_contact_sheet(
        folder / "draws.png",
        noises,
        [(title, captions[::step][:SHEET_CAPTIONS], rows, None)],
        columns=1,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, default=Path("training/runs/export"))
    parser.add_argument("--data_dir", type=Path, default=Path("training/runs/data"))
    parser.add_argument("--output_dir", type=Path, default=Path("docs/model"))
    parser.add_argument("--num_inference_steps", type=int, default=25)
    parser.add_argument("--guidance_scale", type=float, default=2.0)
    parser.add_argument("--compare_guidance", type=float, nargs="*", default=[1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--eval_batch_size", type=int, default=32)
    parser.add_argument("--wordless_draws", type=int, default=32, help="per style")
    parser.add_argument("--diversity_draws", type=int, default=16, help="per caption")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    settings = Settings(
        args.num_inference_steps,
        args.eval_batch_size,
        args.wordless_draws,
        args.diversity_draws,
        args.seed,
    )
    subject = Subject.load(args.assets, args.data_dir, settings)
    drawn = draw_all(subject, args.guidance_scale)
    report = full_report(subject, drawn)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_sheets(args.output_dir, subject, drawn)
    report["by_guidance_scale"] = {
        str(scale): summary(
            subject, drawn if scale == args.guidance_scale else draw_all(subject, scale)
        )
        for scale in args.compare_guidance
    }
    (args.output_dir / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
