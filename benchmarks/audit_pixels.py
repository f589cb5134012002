"""Attacks in pixels beside the audit in noise: the same pictures, the same time in gradients.

    python -m benchmarks.audit_pixels --output docs/benchmarks/audit_pixels.json

The audit moves the noise of each picture by sign steps through the whole sampler. Then foolbox's
projected gradient descent and ART's AutoPGD move the pixels of the very pictures that the audit
began with, in boxes of several sizes, with as many gradients of the classifier as take the time of
the audit's. All pictures are scored as 8-bit files, by the same panel.

What is there is not measured again, so that it can be stopped and go on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adjointdpm.attacks import margin
from adjointdpm.evaluation import success_rate
from adjointdpm.jobs.audit import AuditConfig, Panel, run_audit
from adjointdpm.jobs.audit.panel import from_bits, read_picture, to_bits
from adjointdpm.runs import choose_device
from adjointdpm.setup import load_model
from adjointdpm.storage import write_text
from adjointdpm.targets import to_art, to_foolbox
from benchmarks.stamp import stamp

STEPS, RADIUS, SAMPLING_STEPS, BATCH = 15, 0.3, 10, 8
BOXES = (2, 8, 1)
"""Half the width of the boxes, in 255ths: what pixel attacks are usually given, and less."""


def settings(folder: Path, items: int) -> AuditConfig:
    return AuditConfig(
        output_dir=folder,
        num_prompts=items,
        num_inference_steps=SAMPLING_STEPS,
        radius=RADIUS,
        step_rule="sign",
        max_steps=STEPS,
        stop_at_success=False,
        batch_size=BATCH,
        certify=False,
        resume_from_checkpoint="latest",
    )


def seconds_of(gradient: Callable[[], Any], repeats: int) -> float:
    """Return the CPU seconds of a gradient."""
    gradient()
    times = []
    for _ in range(repeats):
        started = time.process_time()
        gradient()
        times.append(time.process_time() - started)
    return median(times)


def prices(
    config: AuditConfig, panel: Panel, results: Sequence[dict[str, Any]], steps: int
) -> dict[str, Any]:
    """Return what a gradient costs through the sampler and through the classifier alone, and how
    many of the latter take the time of so many of the former."""
    model = load_model(config, choose_device("cpu"))
    rows = results[:BATCH]
    labels = torch.tensor([panel.classifier.index(row["label"]) for row in rows])
    cond = model.encode([row["prompt"] for row in rows])
    noise = model.noise(len(rows), torch.Generator().manual_seed(0)).requires_grad_()
    pictures = torch.rand(len(rows), 3, 64, 64).requires_grad_()

    def through_all() -> None:
        images = model.decode(model.sampler(noise, **cond))
        torch.autograd.grad(margin(panel.classifier(images), labels).sum(), noise)

    def through_classifier() -> None:
        torch.autograd.grad(margin(panel.classifier(pictures), labels).sum(), pictures)

    whole = seconds_of(through_all, 3) / len(rows)
    alone = seconds_of(through_classifier, 20) / len(rows)
    return {
        "seconds_per_noise_gradient": whole,
        "seconds_per_pixel_gradient": alone,
        "noise_steps": steps,
        "pixel_steps": round(steps * whole / alone),
    }


def projected_gradient_descent(
    panel: Panel, images: Tensor, labels: Tensor, radius: float, steps: int
) -> Tensor:
    """Return what foolbox finds, with its own relative step, from a random start."""
    from foolbox.attacks import LinfProjectedGradientDescentAttack

    torch.manual_seed(0)
    attack = LinfProjectedGradientDescentAttack(steps=steps, random_start=True)
    found = [
        attack(to_foolbox(panel.classifier), batch, names, epsilons=radius)[1]
        for batch, names in zip(images.split(BATCH), labels.split(BATCH), strict=True)
    ]
    return torch.cat(found)


def auto_pgd(panel: Panel, images: Tensor, labels: Tensor, radius: float, steps: int) -> Tensor:
    """Return what ART's AutoPGD finds, with the first step of its paper: the box's width."""
    from art.attacks.evasion import AutoProjectedGradientDescent

    np.random.seed(0)
    attack = AutoProjectedGradientDescent(
        to_art(panel.classifier, images.shape[1:]),
        eps=radius,
        eps_step=2 * radius,
        max_iter=steps,
        nb_random_init=1,
        batch_size=BATCH,
        loss_type="difference_logits_ratio",
        verbose=False,
    )
    one_hot = np.eye(len(panel.classifier.labels), dtype=np.float32)[labels.numpy()]
    return torch.from_numpy(attack.generate(images.numpy(), one_hot))


ATTACKS = {"PGD (foolbox)": projected_gradient_descent, "AutoPGD (ART)": auto_pgd}


def scored(panel: Panel, found: Tensor, start: Tensor, result: dict[str, Any]) -> dict[str, Any]:
    """Return what the panel says of one picture, as the audit's results have it."""
    return {
        "label": result["label"],
        "start": result["start"],
        "best": {
            **panel.read(found, result["label"]),
            **panel.compare(found, start),
            "pixel_linf": float((from_bits(found) - from_bits(start)).abs().max()),
        },
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return rates and medians, of pictures that the classifier gets right at the start."""
    right = [row for row in rows if row["start"]["answer"] == row["label"]]
    fooled = [row for row in right if row["best"]["answer"] != row["label"]]
    seen_first = [row for row in right if row["start"]["judge"] == row["label"]]
    seen = [row for row in fooled if row in seen_first]
    both = [
        r["best"]["answer"] != r["label"] and r["best"]["judge"] == r["label"] for r in seen_first
    ]
    distances = ("ssim", "perceptual", "pixel_l2", "pixel_linf")
    return {
        "fooled": counted([row in fooled for row in right]),
        "fooled_and_seen": counted(both),
        "fools_the_judge_too": counted([r["best"]["judge"] != r["label"] for r in seen]),
        "distances": {
            name: median(row["best"][name] for row in fooled) for name in distances if fooled
        },
    }


def counted(outcomes: Sequence[bool]) -> dict[str, Any] | None:
    if not outcomes:
        return None
    rate = success_rate(outcomes)
    return {"yes": rate.successes, "of": rate.trials, "interval": [rate.low, rate.high]}


def main() -> None:
    """Measure, and write JSON as it goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks/audit_pixels.json"))
    parser.add_argument("--folder", type=Path, default=Path("audit-pixels"))
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--boxes", type=int, nargs="+", default=list(BOXES))
    args = parser.parse_args()
    config = settings(args.folder, args.items)
    content = json.loads(args.output.read_text()) if args.output.is_file() else {"rows": {}}
    started = time.process_time()
    results = run_audit(config).results
    spent = time.process_time() - started
    panel = Panel.load(config, choose_device("cpu"))
    starts = read(args.folder, results, "start")
    if "prices" not in content:
        content["prices"] = prices(config, panel, results, STEPS)
    if "noise" not in content["rows"]:
        pictures = read(args.folder, results, "best")
        rows = [scored(panel, *each) for each in zip(pictures, starts, results, strict=True)]
        content["rows"]["noise"] = {"cpu_seconds": spent, **summary(rows)}
        write(args, content)
    labels = torch.tensor([panel.classifier.index(result["label"]) for result in results])
    steps = content["prices"]["pixel_steps"]
    for box in args.boxes:
        for name, attack in ATTACKS.items():
            row = f"{name}, {box}/255"
            if row in content["rows"]:
                continue
            started = time.process_time()
            found = to_bits(attack(panel, from_bits(starts), labels, box / 255, steps))
            spent = time.process_time() - started
            rows = [scored(panel, *each) for each in zip(found, starts, results, strict=True)]
            content["rows"][row] = {"cpu_seconds": spent, **summary(rows)}
            print(row, content["rows"][row], flush=True)
            write(args, content)


def read(folder: Path, results: Sequence[dict[str, Any]], which: str) -> Tensor:
    return torch.stack([to_bits(read_picture(folder / r[which]["picture"])) for r in results])


def write(args: argparse.Namespace, content: dict[str, Any]) -> None:
    content |= {
        "items": args.items,
        "sampling_steps": SAMPLING_STEPS,
        "radius": RADIUS,
        "batch_size": BATCH,
        **stamp(),
    }
    write_text(args.output, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
