"""An audit of EfficientNet-Lite0, trained by others on ImageNet, with pictures of emoji.

    pip install --no-deps efficientnet-lite-pytorch
    python -m benchmarks.audit_imagenet --weights efficientnet_lite0.safetensors

``benchmarks/convert.py`` writes the weights. The emoji whose names are those of one
class of ImageNet are drawn from several noises; pictures that the classifier gets right are the
items. The judge is that of the embedded model, in ImageNet's words, and so is the classifier that
is shown what was found. Beside it, attacks in pixels on the same pictures, as in
``benchmarks/audit_pixels.py``.

What is there is not measured again, so that it can be stopped and go on.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

import adjointdpm as adp
from adjointdpm.features import Preprocessing
from adjointdpm.jobs.audit import AuditConfig, Panel, run_audit, write_audit_report
from adjointdpm.jobs.audit.panel import from_bits, to_bits
from adjointdpm.objectives import ImageClassifier
from adjointdpm.runs import choose_device
from adjointdpm.storage import write_text
from adjointdpm.targets import imagenet_labels, load_target
from benchmarks.audit_pixels import ATTACKS, prices, read, scored, summary
from benchmarks.stamp import stamp

SAMPLING_STEPS, STEPS, RADIUS, BATCH = 10, 15, 0.3, 8
BOXES = (1, 2)


def classes(labels: Sequence[str]) -> dict[str, str]:
    """Return ImageNet's class of each concept that has the name of exactly one."""
    named: dict[str, list[str]] = {}
    for label in labels:
        for name in label.lower().split(", "):
            named.setdefault(name, []).append(label)
    words = adp.load_default().concepts
    found = {c.label: named.get(c.label.lower(), []) for c in words.concepts if not c.wordless}
    return {concept: classes[0] for concept, classes in found.items() if len(classes) == 1}


def in_the_words_of_imagenet(name: str) -> ImageClassifier:
    """Return a classifier of the embedded model that knows concepts by ImageNet's names."""
    own = load_target(name)
    names = classes(imagenet_labels())
    return ImageClassifier(own.model, own.preprocessing, [names.get(x, x) for x in own.labels])


def judge() -> ImageClassifier:
    return in_the_words_of_imagenet("judge")


def classifier() -> ImageClassifier:
    return in_the_words_of_imagenet("classifier")


def target(weights: Path) -> ImageClassifier:
    """Return EfficientNet-Lite0, which gets more of these small pictures right when enlarged
    by bilinear interpolation than by bicubic."""
    half, scale = (127 / 255,) * 3, (128 / 255,) * 3
    preprocessing = Preprocessing((224, 224), mean=half, std=scale, resample="bilinear")
    return load_target("efficientnet-lite0", weights=weights, preprocessing=preprocessing)


@torch.no_grad()
def candidates(model: ImageClassifier, noises: int) -> Iterator[dict[str, Any]]:
    """Yield prompts, their classes, seeds, and whether the classifier is right."""
    default = adp.load_default()
    sampler, decode = adp.from_pipeline(default.pipeline, SAMPLING_STEPS, 1.0)
    names = classes(model.labels)
    for concept in default.concepts.concepts:
        if concept.label not in names:
            continue
        for style in default.concepts.styles:
            prompt = default.concepts.prompt(concept.name, style)
            cond = adp.encode_prompt(default.pipeline, [prompt] * noises, guidance=False)
            seeds = range(noises)
            noise = [torch.randn(4, 16, 16, generator=generator(seed)) for seed in seeds]
            images = from_bits(to_bits(decode(sampler(torch.stack(noise), **cond))))
            answers = model(images).argmax(1).tolist()
            label = names[concept.label]
            for seed, answer in zip(seeds, answers, strict=True):
                right = answer == model.index(label)
                yield {"prompt": prompt, "label": label, "seed": seed, "right": right}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def settings(folder: Path) -> AuditConfig:
    return AuditConfig(
        output_dir=folder / "audit",
        prompts_file=folder / "prompts.csv",
        num_inference_steps=SAMPLING_STEPS,
        classifier="efficientnet-lite0",
        judge="benchmarks.audit_imagenet:judge",
        transfer=["benchmarks.audit_imagenet:classifier"],
        radius=RADIUS,
        max_steps=STEPS,
        batch_size=BATCH,
        certify=False,
        resume_from_checkpoint="latest",
    )


def main() -> None:
    """Measure, and write JSON as it goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks/audit_imagenet.json"))
    parser.add_argument("--folder", type=Path, default=Path("audit-imagenet"))
    parser.add_argument("--noises", type=int, default=6)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    content = json.loads(args.output.read_text()) if args.output.is_file() else {"rows": {}}
    model = target(args.weights)
    if "drawn" not in content:
        drawn = list(candidates(model, args.noises))
        items = [row for row in drawn if row["right"]]
        write_prompts(args.folder / "prompts.csv", items)
        content["drawn"] = {
            "classes": classes(model.labels),
            "pictures": len(drawn),
            "right": len(items),
            "right_by_class": Counter(row["label"] for row in items),
        }
        write(args, content)
    config = settings(args.folder)
    result = run_audit(config, model)
    write_audit_report(result, "python -m benchmarks.audit_imagenet")
    content["noise"] = json.loads(json.dumps(asdict(result.summary)))
    write(args, content)
    panel = Panel.load(config, choose_device("cpu"), model)
    starts = read(config.output_dir, result.results, "start")
    best = read(config.output_dir, result.results, "best")
    rows = [scored(panel, *each) for each in zip(best, starts, result.results, strict=True)]
    content["rows"]["noise"] = summary(rows)
    sheet(args.output.with_suffix(".png"), rows, starts, best)
    if "prices" not in content:
        content["prices"] = prices(config, panel, result.results, STEPS)
    write(args, content)
    labels = torch.tensor([model.index(row["label"]) for row in result.results])
    for box in BOXES:
        for name, attack in ATTACKS.items():
            row = f"{name}, {box}/255"
            if row in content["rows"]:
                continue
            started = time.process_time()
            steps = content["prices"]["pixel_steps"]
            found = to_bits(attack(panel, from_bits(starts), labels, box / 255, steps))
            spent = time.process_time() - started
            rows = [
                scored(panel, *each) for each in zip(found, starts, result.results, strict=True)
            ]
            content["rows"][row] = {"cpu_seconds": spent, **summary(rows)}
            print(row, content["rows"][row], flush=True)
            write(args, content)


def write_prompts(file: Path, items: Sequence[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as opened:
        rows = csv.DictWriter(opened, ["prompt", "label", "seed"], extrasaction="ignore")
        rows.writeheader()
        rows.writerows(items)


def sheet(file: Path, rows: Sequence[dict[str, Any]], starts: Any, best: Any) -> None:
    """Write pairs of pictures, before and after, with what the classifier and the judge say."""
    fooled = [i for i, row in enumerate(rows) if row["best"]["answer"] != row["label"]]
    chosen, columns, width, height = spread(fooled, 24), 4, 290, 170
    page = Image.new("RGB", (columns * width, -(-len(chosen) // columns) * height), "white")
    draw = ImageDraw.Draw(page)
    for place, i in enumerate(chosen):
        x, y = width * (place % columns), height * (place // columns)
        for side, pictures in enumerate((starts, best)):
            picture = Image.fromarray(pictures[i].permute(1, 2, 0).numpy())
            page.paste(
                picture.resize((128, 128), Image.Resampling.NEAREST), (x + 8 + 136 * side, y)
            )
        said = rows[i]["best"]
        draw.text(
            (x + 8, y + 130), f"{short(rows[i]['label'])}, now {short(said['answer'])}", "black"
        )
        draw.text((x + 8, y + 146), f"judge: {short(said['judge'])}", "black")
    page.save(file)


def spread(places: Sequence[int], count: int) -> list[int]:
    """Return at most so many, evenly taken."""
    count = min(count, len(places))
    return [places[i * len(places) // count] for i in range(count)]


def short(label: str) -> str:
    return label.split(",")[0]


def write(args: argparse.Namespace, content: dict[str, Any]) -> None:
    content |= {
        "sampling_steps": SAMPLING_STEPS,
        "max_steps": STEPS,
        "radius": RADIUS,
        "batch_size": BATCH,
        "noises": args.noises,
        **stamp(),
    }
    write_text(args.output, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
